"use strict";
// Finds pairs by their words: those that hold every word of the box, and have the chosen status, stay.
for (const box of document.querySelectorAll("[data-search]")) {
  const section = box.closest("section");
  const words = box.querySelector("input");
  const buttons = [...box.querySelectorAll("button")];
  const count = box.querySelector("output");
  const pairs = [...section.querySelectorAll("article[data-status]")].map((article) => ({
    article, status: article.dataset.status, text: article.textContent.toLowerCase(),
  }));
  const all = section.querySelectorAll("details.more");
  const find = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const status = buttons.find((button) => button.getAttribute("aria-pressed") === "true")?.value ?? "";
    let found = 0;
    for (const pair of pairs) {
      const fits = (!status || pair.status === status) && wanted.every((word) => pair.text.includes(word));
      pair.article.hidden = !fits;
      found += fits;
    }
    const searching = wanted.length > 0 || status !== "";
    if (searching) for (const rest of all) rest.open = true;
    count.textContent = searching ? `${found} of ${pairs.length} pairs in this page` : "";
  };
  words.addEventListener("input", find);
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const chosen = button.getAttribute("aria-pressed") !== "true";
      for (const other of buttons) other.setAttribute("aria-pressed", String(chosen && other === button));
      find();
    });
  }
  box.hidden = false;
}
