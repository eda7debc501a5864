"""``python -m flowvae``, and ``torchrun -m flowvae`` for several processes, devices or machines."""

import os

from flowvae.cli import main

if "RANK" not in os.environ:
    main()
else:
    from flowvae.processes import end

    code: object = 0
    try:
        main()
    except SystemExit as exit:
        code = exit.code
    end(int(str(code or 0)))
