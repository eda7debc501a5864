"""A local web page to look into trained runs; the page alone needs gradio, the computations do not."""
