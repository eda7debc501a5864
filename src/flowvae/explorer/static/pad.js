// The drawing pad: an image whose pixels can be painted, with a pointer or with the keys. The value is base64 of
// its bytes; where painting hides pixels instead, "image|mask". The label says: "name: ink|mask C H W".

const [name, form] = props.label.split(": ");
const [mode, ...sides] = form.split(" ");
const [channels, height, width] = sides.map(Number);
const masking = mode === "mask";
let pixels = new Uint8Array(channels * height * width);
let hidden = new Uint8Array(height * width);
let erasing = false;
let before = null; // where the pointer was
let cursor = null; // where the keys are

const canvas = make("canvas", {
  class: "fv-canvas", width, height, tabindex: 0, role: "application",
  "aria-label": `${name}: ${masking ? "paint over what to hide" : "draw"}. Arrow keys move, space paints.`,
});
canvas.style.aspectRatio = `${width} / ${height}`;
const pen = make("button", { type: "button", "aria-pressed": "true" }, masking ? "Hide" : "Draw");
const eraser = make("button", { type: "button", "aria-pressed": "false" }, masking ? "Show" : "Erase");
const clear = make("button", { type: "button" }, "Clear");
root.append(
  make("div", { class: "fv-label" }, name), canvas, make("div", { class: "fv-buttons" }, pen, eraser, clear),
);

function read() {
  const [image, mask] = String(props.value ?? "").split("|");
  const bytes = Uint8Array.from(atob(image), (letter) => letter.charCodeAt(0));
  if (bytes.length === pixels.length) pixels = bytes;
  hidden = mask ? Uint8Array.from(atob(mask), (letter) => letter.charCodeAt(0)) : new Uint8Array(height * width);
  show();
}

function write() {
  // Letter by letter: as many arguments as a large image has bytes would not fit onto the stack.
  const text = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  props.value = text(pixels) + (masking ? "|" + text(hidden) : "");
  trigger("input");
}

function show() {
  const context = canvas.getContext("2d");
  const shown = context.createImageData(width, height);
  const size = height * width;
  for (let index = 0; index < size; index++) {
    for (let channel = 0; channel < 3; channel++) {
      const value = pixels[index + (channels === 3 ? channel * size : 0)];
      shown.data[4 * index + channel] = channels === 1 ? 255 - value : value;
    }
    // Hidden: a checked pattern in the colour of what is chosen.
    if (hidden[index]) {
      const light = ((index % width) + Math.floor(index / width)) % 2 ? 20 : 0;
      shown.data.set([129 + light, 140 + light, 248], 4 * index);
    }
    shown.data[4 * index + 3] = 255;
  }
  context.putImageData(shown, 0, 0);
  if (cursor) {
    context.fillStyle = "rgba(217, 72, 15, 0.8)";
    context.fillRect(cursor[0], cursor[1], 1, 1);
  }
}

// A round brush as wide as a pen stroke of a digit, or twice that when it hides.
function dab(x, y) {
  const radius = (Math.max(height, width) / 28) * (masking ? 2.5 : erasing ? 1.6 : 1.1);
  for (let row = Math.floor(y - radius); row <= y + radius; row++) {
    for (let column = Math.floor(x - radius); column <= x + radius; column++) {
      const inside = row >= 0 && row < height && column >= 0 && column < width;
      if (!inside || Math.hypot(column + 0.5 - x, row + 0.5 - y) > radius) continue;
      const index = row * width + column;
      if (masking) hidden[index] = erasing ? 0 : 1;
      else for (let c = 0; c < channels; c++) pixels[c * height * width + index] = erasing ? 0 : 255;
    }
  }
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
}

function stroke(to) {
  const from = before ?? to;
  const steps = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])));
  for (let step = 0; step <= steps; step++) {
    dab(from[0] + ((to[0] - from[0]) * step) / steps, from[1] + ((to[1] - from[1]) * step) / steps);
  }
  before = to;
  show();
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  cursor = null;
  before = null;
  stroke(place(event));
});
canvas.addEventListener("pointermove", (event) => before && stroke(place(event)));
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, () => {
    if (before) write();
    before = null;
  });
}
canvas.addEventListener("keydown", (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const move = moves[event.key];
  if (!move && event.key !== " ") return;
  event.preventDefault();
  cursor ??= [Math.floor(width / 2), Math.floor(height / 2)];
  if (move) {
    cursor = [
      Math.min(width - 1, Math.max(0, cursor[0] + move[0])), Math.min(height - 1, Math.max(0, cursor[1] + move[1])),
    ];
  } else {
    dab(cursor[0] + 0.5, cursor[1] + 0.5);
    write();
  }
  show();
});
canvas.addEventListener("blur", () => {
  cursor = null;
  show();
});
for (const [button, erases] of [[pen, false], [eraser, true]]) {
  button.addEventListener("click", () => {
    erasing = erases;
    pen.setAttribute("aria-pressed", String(!erases));
    eraser.setAttribute("aria-pressed", String(erases));
  });
}
clear.addEventListener("click", () => {
  (masking ? hidden : pixels).fill(0);
  show();
  write();
});
watch("value", read);
read();
