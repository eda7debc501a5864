// Strips of images on the way from one to another, of several runs, moved over by one slider or by dragging.

let runs = [];
let steps = 2;
const slider = make("input", { type: "range", min: 0, max: 1, value: 0, step: 1, "aria-label": "place on the way" });
const list = make("div", { class: "fv-strips" });
root.append(slider, list);

function read() {
  runs = JSON.parse(props.value || "[]");
  if (!runs.length) return;
  steps = runs[0].steps;
  const before = slider.max > 1 ? slider.value / slider.max : 0.5;
  slider.max = steps - 1;
  slider.value = Math.round(before * (steps - 1));
  list.replaceChildren(...runs.map(strip));
  show();
}

function strip(run) {
  const sheet = make("img", {
    src: run.sheet, alt: `${steps} images on the way, ${run.title}`, class: "fv-sheet", draggable: "false",
  });
  const over = make("div", { class: "fv-over" }, sheet, make("div", { class: "fv-frame" }));
  const large = make("div", { class: "fv-large", role: "img" });
  // A model without a bound has no curve.
  const scored = run.scores.length > 0;
  const area = make("div", { class: "fv-strip" }, over, ...(scored ? [curve(run)] : []));
  const drag = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const box = over.getBoundingClientRect();
    slider.value = Math.floor(((event.clientX - box.left) / box.width) * steps);
    show();
  };
  area.addEventListener("pointerdown", drag);
  area.addEventListener("pointermove", drag);
  const number = make("span", { class: "fv-number" });
  const row = make(
    "section", { class: "fv-walk" },
    make("div", { class: "fv-walk-side" }, make("strong", {}, run.title), large, ...(scored ? [make("div", {}, "-ELBO ", number)] : [])),
    area,
  );
  return row;
}

// -ELBO under the strip, one point under the middle of each image; all runs on one scale.
function curve(run) {
  const all = runs.flatMap((each) => each.scores);
  const low = Math.min(...all), high = Math.max(...all);
  const height = 90;
  const y = (score) => 8 + (1 - (score - low) / (high - low || 1)) * (height - 16);
  const points = run.scores.map((score, index) => `${(index + 0.5) * 20},${y(score).toFixed(1)}`);
  const svg = `<svg viewBox="0 0 ${20 * steps} ${height}" role="img" aria-label="-ELBO along the way"
    preserveAspectRatio="none"><polyline points="${points.join(" ")}" vector-effect="non-scaling-stroke"/></svg>
    <span class="fv-top">${high.toFixed(0)}</span><span class="fv-bottom">${low.toFixed(0)}</span>
    <i class="fv-dot"></i>`;
  const made = make("div", { class: "fv-curve" });
  made.innerHTML = svg;
  made.place = (index) => {
    const dot = made.querySelector(".fv-dot");
    dot.style.left = `${((index + 0.5) / steps) * 100}%`;
    dot.style.top = `${(y(run.scores[index]) / height) * 100}%`;
  };
  return made;
}

function show() {
  const index = Math.min(steps - 1, Math.max(0, Number(slider.value)));
  slider.setAttribute("aria-valuetext", `image ${index + 1} of ${steps}`);
  [...list.children].forEach((row, number) => {
    const run = runs[number];
    const frame = row.querySelector(".fv-frame");
    frame.style.left = `${(index / steps) * 100}%`;
    frame.style.width = `${100 / steps}%`;
    const large = row.querySelector(".fv-large");
    large.style.backgroundImage = `url(${run.sheet})`;
    large.style.backgroundSize = `${steps * 100}% 100%`;
    large.style.backgroundPosition = `${(index / (steps - 1)) * 100}% 0`;
    large.style.aspectRatio = `${run.width} / ${run.height}`;
    large.setAttribute("aria-label", `image ${index + 1} of ${steps}, ${run.title}`);
    if (!run.scores.length) return;
    row.querySelector(".fv-number").textContent = run.scores[index].toFixed(1);
    row.querySelector(".fv-curve").place(index);
  });
}

slider.addEventListener("input", show);
watch("value", read);
read();
