// The latent plane: a map to drag over, and the image of the point under the pointer, decoded on the server while
// the pointer moves. One request is under way at a time, and the latest place is asked for next.

let map = null;
let sheet = null;
let place = [0, 0];
let busy = false;
let wanted = null;

const canvas = make("canvas", {
  class: "fv-map", tabindex: 0, role: "application", "aria-label": "map of the plane; arrow keys move the point",
});
const image = make("img", { class: "fv-decoded", alt: "the image of the point" });
const where = make("output", { class: "fv-number" });
const failure = make("div", { class: "fv-flag", role: "status" });
const dots = make("input", { type: "checkbox", id: "fv-dots" });
const legend = make("div", { class: "fv-legend" });
root.append(
  canvas,
  make("div", { class: "fv-map-side" }, image, where, failure,
    make("label", {}, dots, " test images, projected onto the plane"), legend),
);

async function read() {
  if (!props.value) return;
  map = JSON.parse(props.value);
  sheet = await picture(map.sheet);
  place = map.anchors ? [0.5, 0.25] : [0, 0];
  const labels = [...new Set(map.labels)].filter((label) => label >= 0).sort((a, b) => a - b);
  legend.innerHTML = labels.map((label) => `<span><i style="background:${hue(label)}"></i>${label}</span>`).join("");
  canvas.style.aspectRatio = map.aspect;
  draw();
  move(place, performance.now());
}

const hue = (label) => map.colours[label % map.colours.length];

// The map's images stand at their points: the outer ones reach half an image beyond the range.
const margin = () => (map.high - map.low) / (map.steps - 1) / 2;
const span = () => map.high - map.low + 2 * margin();
const across = (x, width) => ((x - map.low + margin()) / span()) * width;
const down = (y, height) => ((map.high + margin() - y) / span()) * height;

function draw() {
  if (!map || !canvas.clientWidth) return;
  const width = canvas.clientWidth, height = width / map.aspect;
  const context = fitted(canvas, width, height);
  context.drawImage(sheet, 0, 0, width, height);
  if (dots.checked) {
    context.fillStyle = "rgba(255, 255, 255, 0.75)";
    context.fillRect(0, 0, width, height);
    // A label is written, so that it can be read without its colour.
    context.font = "bold 11px system-ui, sans-serif";
    context.textAlign = "center";
    map.dots.forEach(([x, y], index) => {
      const label = map.labels[index], known = label >= 0;
      context.fillStyle = known ? hue(label) : "#1e293b";
      context.fillText(known ? label : "•", across(x, width), down(y, height) + 4);
    });
  }
  const named = ["A", "B", map.anchors > 2 ? "C" : "0"];
  (map.anchors ? [[0, 0], [1, 0], [0, 1]] : []).forEach(([x, y], index) => {
    mark(context, across(x, width), down(y, height), 9, "#1e293b", named[index]);
  });
  mark(context, across(place[0], width), down(place[1], height), 7, "#d9480f", "");
}

function mark(context, x, y, radius, ink, text) {
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
  context.fillStyle = text ? "white" : "rgba(255, 255, 255, 0.35)";
  context.fill();
  context.lineWidth = 2.5;
  context.strokeStyle = ink;
  context.stroke();
  context.fillStyle = ink;
  context.font = "bold 11px system-ui, sans-serif";
  context.textAlign = "center";
  context.fillText(text, x, y + 4);
}

function move(to, since) {
  const low = map.low - margin(), high = map.high + margin();
  place = to.map((value) => Math.min(high, Math.max(low, value)));
  where.textContent = `(${place.map((value) => value.toFixed(2).replace("-", "−")).join(", ")})`;
  draw();
  wanted = since;
  ask();
}

async function ask() {
  if (busy || wanted === null) return;
  busy = true;
  const since = wanted;
  wanted = null;
  const [x, y] = place;
  const code = map.origin.map((value, index) => value + x * map.across[index] + y * map.up[index]);
  try {
    // Nothing comes back where the server cannot be reached, or fails.
    const answer = (await server.decode_code({ run: map.run, code })) ?? { error: "the server does not answer" };
    if (answer.error) throw Error(answer.error);
    image.src = answer.image;
    await image.decode();
    failure.textContent = "";
    root.dataset.milliseconds = (performance.now() - since).toFixed(1); // from the pointer's move to the image
  } catch (error) {
    image.removeAttribute("src"); // it would be that of another point
    failure.textContent = error.message;
  } finally {
    busy = false;
  }
  ask();
}

function under(event) {
  const box = canvas.getBoundingClientRect();
  return [
    map.low - margin() + ((event.clientX - box.left) / box.width) * span(),
    map.high + margin() - ((event.clientY - box.top) / box.height) * span(),
  ];
}

canvas.addEventListener("pointerdown", (event) => {
  if (!map) return;
  canvas.setPointerCapture(event.pointerId);
  move(under(event), performance.now());
});
canvas.addEventListener("pointermove", (event) => map && event.buttons && move(under(event), performance.now()));
canvas.addEventListener("keydown", (event) => {
  const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (!by || !map) return;
  event.preventDefault();
  const step = (map.high - map.low) / (event.shiftKey ? 10 : 60);
  move([place[0] + by[0] * step, place[1] + by[1] * step], performance.now());
});
dots.addEventListener("change", draw);
whenSized(canvas, draw);
watch("value", read);
read();
