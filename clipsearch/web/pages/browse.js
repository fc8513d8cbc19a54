
// Browse: fetches the hits from the server whenever the form changes, and shows them.
const form = document.getElementById("ask");
const answer = document.getElementById("answer");
const light = document.getElementById("light");
const spoken = document.getElementById("status");
const field = name => form.querySelector(`[name=${name}]`); // buttons with these names are outside
let running, typing;

const asked = () =>
  new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));

const ask = async ({ remember = false } = {}) => {
  clearTimeout(typing);
  running?.abort();
  running = new AbortController();
  const query = asked();
  answer.setAttribute("aria-busy", "true");
  try {
    const reply = await fetch(`hits?${query}`, { signal: running.signal });
    const html = await reply.text();
    if (!reply.ok) throw new Error(html);
    const focused = document.activeElement.closest("figure.hit")?.dataset.id;
    const open = answer.querySelector(".why")?.open;
    answer.innerHTML = html;
    spoken.textContent = answer.querySelector("h2")?.textContent; // for screen readers
    if (open) answer.querySelector(".why")?.setAttribute("open", "");
    if (focused) hits().find(hit => hit.dataset.id === focused)?.focus({ preventScroll: true });
    history[remember ? "pushState" : "replaceState"](null, "", `?${query}`);
    document.title = query.get("q") || "clipsearch";
  } catch (error) {
    if (error.name === "AbortError") return; // a newer request is running
    answer.textContent = spoken.textContent =
      "No answer. Is clipsearch browse still running? If not, start it again and open the new address.";
  }
  answer.removeAttribute("aria-busy");
};

const afresh = () => { field("k").value = ""; };

form.addEventListener("input", event => {
  afresh();
  clearTimeout(typing);
  typing = setTimeout(ask, event.target.matches("[type=checkbox], select") ? 0 : 250);
});

form.addEventListener("submit", event => {
  event.preventDefault();
  const button = event.submitter;
  if (button?.name === "k") field("k").value = button.value;
  else afresh();
  if (button?.name === "all" || button?.name === "outside") {
    field(button.name).checked = true;
    form.querySelector("details").open = true;
  }
  ask({ remember: true });
});

addEventListener("popstate", () => location.reload());

// -- marks -----------------------------------------------------------------------------------

const inputOf = id =>
  [...answer.querySelectorAll("input[type=hidden]")].find(input => input.value === id);

const unmark = id => inputOf(id)?.remove();

const mark = (id, name) => {
  const input = document.createElement("input");
  Object.assign(input, { type: "hidden", name, value: id });
  input.setAttribute("form", "ask");
  answer.append(input);
};

const toggle = name => hit => {
  const before = inputOf(hit.dataset.id)?.name;
  unmark(hit.dataset.id);
  if (before !== name) mark(hit.dataset.id, name);
  ask();
};

const onlyLike = hit => {
  for (const input of answer.querySelectorAll("input[type=hidden]")) input.remove();
  mark(hit.dataset.id, "like");
  field("q").value = "";
  afresh();
  scrollTo({ top: 0 });
  ask({ remember: true });
};

addEventListener("click", event => {
  const marked = event.target.closest("[data-unmark]");
  if (!marked) return;
  unmark(marked.dataset.unmark);
  ask();
});

// -- one image, large ------------------------------------------------------------------------

let lit = -1;

const show = at => {
  const all = hits();
  if (!all.length) return;
  lit = Math.max(0, Math.min(all.length - 1, at));
  const hit = all[lit];
  const link = hit.querySelector("a").href;
  const name = hit.querySelector(".path");
  Object.assign(light.querySelector("img"), { src: link, alt: name.textContent });
  light.querySelector("a").href = link;
  light.querySelector("a").replaceChildren(name.cloneNode(true));
  if (!light.open) light.showModal();
};

addEventListener("click", event => {
  const link = event.target.closest("figure.hit > a");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(hits().indexOf(link.parentElement));
});

light.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (button?.dataset.step) show(lit + Number(button.dataset.step));
  else if (!event.target.closest("a")) light.close();
});
light.addEventListener("close", () => {
  light.querySelector("img").removeAttribute("src");
  hits()[lit]?.focus();
});
light.addEventListener("keydown", event => {
  const step = { ArrowRight: 1, l: 1, ArrowLeft: -1, h: -1 }[event.key];
  if (step) { event.preventDefault(); show(lit + step); }
});
light.querySelector("img").addEventListener("error", () => {
  // The browser cannot show this format, so show the thumbnail instead.
  const small = hits()[lit]?.querySelector("img")?.src;
  const large = light.querySelector("img");
  if (small && large.src !== small) large.src = small;
});

// -- keys ------------------------------------------------------------------------------------

Object.assign(acts, { good: toggle("like"), bad: toggle("unlike"), more: onlyLike });
Object.assign(keys, { g: acts.good, b: acts.bad, m: acts.more });

addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || light.open) return;
  const box = field("q");
  if (event.target === box) {
    if (event.key === "Escape") box.blur();
    if (event.key !== "ArrowDown") return;
    event.preventDefault();
    hits()[0]?.focus();
  } else if (event.key === "/" && !event.target.closest("input:not([type=checkbox])")) {
    event.preventDefault();
    box.focus();
    box.select();
  }
});
