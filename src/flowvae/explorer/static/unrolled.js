// The posterior unrolled: a cloud of samples that can be moved through the transformations, small pictures of all
// stops, and what each transformation adds to the log-determinant.

let data = null;
let points = null; // [step][sample][2], flat
let hues = null; // a sample's colour, by its direction in the first cloud
let position = 0; // 0 .. K
let playing = 0;

const big = make("canvas", { class: "fv-stage", role: "img" });
const slider = make("input", {
  type: "range", min: 0, max: 1, step: 0.01, value: 0, "aria-label": "how far the samples have come",
});
const play = make("button", { type: "button", class: "fv-play" }, "▶ Play");
const title = make("div", { class: "fv-stage-title", "aria-live": "polite" });
const small = make("div", { class: "fv-stops" });
const bars = make("div", { class: "fv-bars" });
const ends = make("div", { class: "fv-ends" });
root.append(
  small,
  make("div", { class: "fv-unrolled-top" },
    make("div", { class: "fv-stage-box" }, title, big, make("div", { class: "fv-controls" }, play, slider)),
    make("div", { class: "fv-explained" }, bars, ends)),
);

const letters = "₀₁₂₃₄₅₆₇₈₉";
const subscript = (number) => [...String(number)].map((digit) => letters[digit]).join("");

function read() {
  if (!props.value) return;
  data = JSON.parse(props.value);
  const bytes = Uint8Array.from(atob(data.points), (letter) => letter.charCodeAt(0));
  points = new Float32Array(bytes.buffer);
  hues = Float32Array.from({ length: data.samples }, (_, s) =>
    (Math.atan2(points[2 * s + 1], points[2 * s]) * 180) / Math.PI + 180);
  slider.max = data.steps - 1;
  slider.disabled = play.disabled = data.steps < 2;
  stop();
  position = data.steps - 1;
  slider.value = position;
  small.replaceChildren(...Array.from({ length: data.steps }, (_, step) => stopAt(step)));
  explain();
  drawAll();
}

function stopAt(step) {
  const canvas = make("canvas");
  const caption = step ? change(data.log_determinants[step - 1]) : "the Gaussian";
  const button = make(
    "button", { type: "button", onclick: () => { stop(); moveTo(step); } },
    canvas, make("b", {}, "z" + subscript(step)), make("span", {}, caption),
  );
  button.setAttribute("aria-label", `show the samples ${step ? `after transformation ${step}` : "of the Gaussian"}`);
  return button;
}

const signed = (value, digits = 2) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);
const change = (value) => `log|det| ${signed(value)}`;

function explain() {
  const values = data.log_determinants;
  if (!values.length) {
    bars.innerHTML = "<p class='fv-note'>This posterior is the Gaussian itself: there is no transformation to " +
      "carry its samples on. Choose a run with planar, Real NVP or inverse autoregressive transformations.</p>";
  } else {
    const most = Math.max(...values.map(Math.abs), 1e-6);
    const rows = values.map((value, index) => {
      const share = (Math.abs(value) / most) * 50;
      const side = value < 0 ? `right:50%` : `left:50%`;
      return `<tr><th scope="row">f${subscript(index + 1)}</th><td class="fv-diverging"><i class="${
        value < 0 ? "fv-less" : "fv-more"}" style="${side};width:${share}%"></i></td><td class="fv-number">${
        signed(value)}</td></tr>`;
    });
    const total = values.reduce((sum, value) => sum + value, 0);
    bars.innerHTML = `<h4>log|det| of each transformation, mean over samples, nats</h4><table>${rows.join("")}</table>
      <p class="fv-note">${signed(total)} in all: the flow has made the
      posterior ${total < 0 ? "narrower" : "wider"} than q₀ by that much, over all ${data.dimension} dimensions.
      The mean of log q ${total < 0 ? "rises" : "falls"} from ${signed(data.density[0], 1)} to
      ${signed(data.density.at(-1), 1)} nats.</p>`;
  }
  const rows = [["z₀", data.decoded[0]], ["z" + subscript(data.steps - 1), data.decoded[1]]];
  const shown = data.steps > 1 ? rows : rows.slice(0, 1);
  ends.innerHTML = "<h4>What samples decode to</h4>" + shown.map(([label, address]) =>
    `<figure><figcaption>${label}</figcaption><img src="${address}" alt="decoded samples of ${label}"></figure>`)
    .join("") + (data.steps > 1 ? "<p class='fv-note'>The decoder knows z" + subscript(data.steps - 1) +
      ". Fed with z₀ it sees codes from before the flow, which it was not trained on.</p>" : "");
}

function drawAll() {
  if (!data || !root.clientWidth) return;
  [...small.children].forEach((button, step) => {
    const canvas = button.querySelector("canvas");
    const side = canvas.clientWidth || 120;
    draw(fitted(canvas, side, side), side, step, false);
  });
  drawStage();
}

function drawStage() {
  if (!data || !big.clientWidth) return;
  const side = big.clientWidth;
  draw(fitted(big, side, side), side, position, true);
  const last = data.steps - 1;
  const step = Math.round(position);
  const moving = Math.abs(position - step) > 0.02;
  title.textContent = moving
    ? `z${subscript(Math.floor(position))} → z${subscript(Math.ceil(position))}`
    : `z${subscript(step)}, ${step ? `after ${step} of ${last} transformations` : "drawn from the Gaussian q₀"}`;
  big.setAttribute("aria-label", `${data.samples} samples: ${title.textContent}`);
  slider.setAttribute("aria-valuetext", title.textContent);
  [...small.children].forEach((button, index) =>
    button.setAttribute("aria-pressed", String(index === step && !moving)));
  follow(small.children[step]);
}

// Scroll the strip, and not the page, until the whole button is in sight.
function follow(button) {
  const left = button.offsetLeft, right = left + button.offsetWidth - small.clientWidth;
  small.scrollLeft = Math.min(left, Math.max(right, small.scrollLeft));
}

function draw(context, side, at, large) {
  const from = Math.floor(at), to = Math.ceil(at), between = smooth(at - from);
  const extent = data.extents[from].map((value, edge) => value * (1 - between) + data.extents[to][edge] * between);
  const [left, right, bottom, top] = extent;
  const x = (value) => ((value - left) / (right - left)) * side;
  const y = (value) => ((top - value) / (top - bottom)) * side;
  context.fillStyle = colour("--fv-paper");
  context.fillRect(0, 0, side, side);
  if (large) axes(context, side, extent, x, y);
  reference(context, x, y);
  const size = data.samples, first = 2 * size * from, second = 2 * size * to;
  const every = large ? 1 : Math.ceil(size / 500);
  const radius = large ? 2.1 : 1;
  context.globalAlpha = large ? 0.7 : 0.75;
  for (let s = 0; s < size; s += every) {
    const px = points[first + 2 * s] * (1 - between) + points[second + 2 * s] * between;
    const py = points[first + 2 * s + 1] * (1 - between) + points[second + 2 * s + 1] * between;
    context.fillStyle = `hsl(${hues[s]} 72% 52%)`;
    context.beginPath();
    context.arc(x(px), y(py), radius, 0, 7);
    context.fill();
  }
  const near = Math.round(at);
  const visible = Math.max(0, 1 - 4 * Math.abs(at - near));
  if (visible) lines(context, data.contours[near], x, y, visible, large);
  context.globalAlpha = 1;
}

const smooth = (t) => t * t * (3 - 2 * t);

function lines(context, levels, x, y, alpha, large) {
  context.strokeStyle = colour("--fv-ink");
  levels.forEach((level, index) => {
    context.globalAlpha = alpha * [0.9, 0.65, 0.4][index];
    context.lineWidth = large ? 1.6 : 1;
    for (const line of level) {
      context.beginPath();
      line.forEach(([px, py], point) => (point ? context.lineTo(x(px), y(py)) : context.moveTo(x(px), y(py))));
      context.stroke();
    }
  });
}

// What lies within it is 90% of the Gaussian: the axes have a scale of their own at each step.
function reference(context, x, y) {
  const radius = Math.sqrt(-2 * Math.log(0.1));
  context.globalAlpha = 1;
  context.strokeStyle = colour("--body-text-color-subdued");
  context.lineWidth = 1.2;
  context.setLineDash([5, 4]);
  context.beginPath();
  context.ellipse(x(0), y(0), x(radius) - x(0), y(0) - y(radius), 0, 0, 7);
  context.stroke();
  context.setLineDash([]);
}

// 1, 2 or 5 times a power of ten: at most ten lines.
function spacing(range) {
  const power = 10 ** Math.floor(Math.log10(range / 10));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= range / 10);
}

function axes(context, side, [left, right, bottom, top], x, y) {
  context.strokeStyle = colour("--fv-line");
  context.fillStyle = colour("--body-text-color-subdued");
  context.lineWidth = 1;
  context.font = "11px system-ui, sans-serif";
  const text = (value, step) =>
    value.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9))).replace("-", "−");
  const wide = spacing(right - left), high = spacing(top - bottom);
  for (let line = Math.ceil(left / wide); line * wide <= right; line++) {
    segment(context, x(line * wide), 0, x(line * wide), side);
    context.fillText(text(line * wide, wide), x(line * wide) + 3, side - 5);
  }
  for (let line = Math.ceil(bottom / high); line * high <= top; line++) {
    segment(context, 0, y(line * high), side, y(line * high));
    context.fillText(text(line * high, high), 4, y(line * high) - 3);
  }
}

function segment(context, x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}

function moveTo(where) {
  position = where;
  slider.value = where;
  drawStage();
}

function stop() {
  cancelAnimationFrame(playing);
  playing = 0;
  play.textContent = "▶ Play";
}

// A second and a half for each transformation, the last third of it at rest.
function start() {
  const last = data.steps - 1;
  const begun = performance.now() - (position >= last ? 0 : position * 1500);
  play.textContent = "❚❚ Pause";
  const frame = (now) => {
    const time = (now - begun) / 1500;
    const step = Math.floor(time);
    moveTo(Math.min(last, step + Math.min(1, (time - step) * 1.5)));
    if (position < last) playing = requestAnimationFrame(frame);
    else stop();
  };
  playing = requestAnimationFrame(frame);
}

play.addEventListener("click", () => (playing ? stop() : start()));
slider.addEventListener("input", () => {
  stop();
  position = Number(slider.value);
  if (Math.abs(position - Math.round(position)) < 0.04) position = Math.round(position);
  drawStage();
});
slider.addEventListener("keydown", (event) => {
  const move = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
  if (!move) return;
  event.preventDefault(); // from stop to stop
  stop();
  moveTo(Math.min(data.steps - 1, Math.max(0, Math.round(position + move))));
});
whenSized(root, drawAll);
watch("value", read);
read();
