// Keys: j and k (next, previous), Enter opens, u goes up, / into the text field, x chooses a run.
// A list moves from item to item; a page without one follows its own links to the next and the previous.

const items = () => [...document.querySelectorAll("[data-item]")];

function move(step) {
  const all = items();
  if (!all.length) {
    document.querySelector(`a[rel="${step > 0 ? "next" : "prev"}"]`)?.click();
    return;
  }
  const now = all.findIndex((item) => item.contains(document.activeElement));
  const to = now < 0 ? (step > 0 ? 0 : all.length - 1) : now + step;
  if (to < 0 || to >= all.length) {
    document.querySelector(`a[rel="${step > 0 ? "next" : "prev"}"]`)?.click();
    return;
  }
  all[to].querySelector("[data-open]").focus();
  all[to].scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest("input:not([type=checkbox]):not([type=radio]), select, textarea");
  if (event.key === "Escape" && field) field.blur();
  if (field) return;
  const acts = {
    j: () => move(1),
    k: () => move(-1),
    u: () => document.querySelector("[data-up]")?.click(),
    "/": () => document.getElementById("text")?.focus(),
    x: () => document.activeElement.closest("[data-item]")?.querySelector("input[type=checkbox]")?.click(),
  };
  const act = acts[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});

// What is chosen takes effect at once; the button is for typed fields. Empty fields stay out of the address.
for (const form of document.querySelectorAll("form.filters")) {
  form.addEventListener("change", (event) => {
    if (event.target.matches("[data-submit]")) form.requestSubmit();
  });
  form.addEventListener("submit", () => {
    for (const field of form.elements) if (field.value === "") field.disabled = true;
    setTimeout(() => [...form.elements].forEach((field) => (field.disabled = false)));
  });
}
