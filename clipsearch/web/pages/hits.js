// Shared by the contact sheet and browse: moving between hits, and copying a path.
const hits = () => [...document.querySelectorAll("figure.hit")];

let toastEnds;
const toast = text => {
  const place = document.querySelector("output");
  place.textContent = text;
  place.classList.add("shown");
  clearTimeout(toastEnds);
  toastEnds = setTimeout(() => place.classList.remove("shown"), 1400);
};

const copy = async hit => {
  try {
    await navigator.clipboard.writeText(hit.dataset.path);
    toast("Path copied");
  } catch { // not allowed: select the path instead, to copy by hand
    getSelection().selectAllChildren(hit.querySelector(".path"));
    toast("Path selected");
  }
};

const open_ = hit => hit.querySelector("a").click();

// What buttons and keys do to the focused hit.
const acts = { copy };
const keys = { c: copy, Enter: open_ };

addEventListener("click", event => {
  const button = event.target.closest("button[data-act]");
  if (button) acts[button.dataset.act](button.closest("figure"));
});

// Tab moves from image to image, and through the buttons of the focused one.
let entered;
addEventListener("focusin", event => {
  const hit = event.target.closest("figure.hit");
  if (hit === entered) return;
  const tabs = (figure, to) =>
    figure?.querySelectorAll("button, summary").forEach(each => { each.tabIndex = to; });
  tabs(entered, -1);
  tabs(hit, 0);
  entered = hit;
});

addEventListener("error", event => { // an image that cannot be loaded
  const picture = event.target;
  if (!picture.matches?.("figure.hit img")) return;
  const words = document.createElement("span");
  words.className = "none";
  words.textContent = "cannot be shown";
  picture.replaceWith(words);
}, true);

const move = (all, at, step) => {
  const next = all[Math.max(0, Math.min(all.length - 1, at < 0 ? 0 : at + step))];
  next.focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
};

addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea, dialog")) return;
  const all = hits();
  if (!all.length) return;
  const at = all.indexOf(event.target.closest("figure"));
  const below = all.findIndex(hit => hit.offsetTop > all[0].offsetTop);
  const across = below < 0 ? all.length : below;
  const step = { ArrowRight: 1, l: 1, ArrowLeft: -1, h: -1, ArrowDown: across, j: across,
    ArrowUp: -across, k: -across }[event.key];
  if (step !== undefined) {
    event.preventDefault();
    move(all, at, step);
  } else if (at >= 0 && keys[event.key] && !event.target.closest("button, a, summary")) {
    event.preventDefault();
    keys[event.key](all[at]);
  }
});
