// Shared by the parts of the page. A part's script runs once, with gradio's names: `element`, the part; `props`,
// whose `value` is the text that both sides understand; `watch` and `trigger`, for changes from and to the server;
// `server`, functions that run there.

const root = element.querySelector("div");

function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function picture(address) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.onerror = reject;
    image.src = address;
  });
}

// A canvas as sharp as the screen; drawing is in the units of its size on the page.
function fitted(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

function colour(name) {
  return getComputedStyle(root).getPropertyValue(name).trim();
}

// A part in a tab that is not open has no size yet; draw again when it has, and whenever that changes.
function whenSized(watched, draw) {
  let last = 0;
  new ResizeObserver(() => {
    const width = watched.clientWidth;
    if (width && width !== last) {
      last = width;
      draw();
    }
  }).observe(watched);
}
