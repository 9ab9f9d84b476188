"use strict";
// Finding one's way: the switch of NFEs, what is folded, the contents, and what names mean. It runs
// before anything is drawn; who draws hears of what comes into sight by the event "shown".
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const shown = (part) => part.dispatchEvent(new Event("shown", { bubbles: true }));

  // One NFE of a run's first screen at a time.
  const choose = (glance) => {
    const run = glance.closest(".run");
    all(".glance", run).forEach((each) => each.classList.toggle("on", each === glance));
    all(".switch input", run).forEach((input) => {
      input.checked = input.value === glance.dataset.nfe;
    });
    shown(glance);
  };
  all(".switch input").forEach((input) => input.addEventListener("change", () => {
    const run = input.closest(".run");
    choose(run.querySelector(`.glance[data-nfe="${input.value}"]`));
  }));

  // What a link leads to is opened first.
  const reveal = (id) => {
    const target = id && document.getElementById(id);
    if (!target) return;
    const own = target.querySelector(":scope > .fold");
    for (let part = own || target; part; part = part.parentElement) {
      if (part.tagName === "DETAILS") part.open = true;
      if (part.matches(".glance:not(.on)")) choose(part);
    }
    target.scrollIntoView();
  };
  const wanted = () => decodeURIComponent(location.hash.slice(1));
  window.addEventListener("hashchange", () => reveal(wanted()));
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    // The address stays the same where a link is followed again.
    if (link && link.hash === location.hash) reveal(wanted());
  });
  if (location.hash) reveal(wanted());
  document.addEventListener("toggle", (event) => {
    if (event.target.open) shown(event.target);
  }, true);

  // Contents: where one is, and on a narrow window a list to be opened.
  const contents = document.querySelector(".toc");
  const button = contents.querySelector("button");
  const open = (wide) => {
    contents.classList.toggle("open", wide);
    button.setAttribute("aria-expanded", String(wide));
  };
  button.addEventListener("click", () => open(!contents.classList.contains("open")));
  contents.addEventListener("click", (event) => { if (event.target.closest("a")) open(false); });
  contents.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && contents.classList.contains("open")) { open(false); button.focus(); }
  });
  const links = all("a", contents)
    .map((link) => [link, document.getElementById(decodeURIComponent(link.hash.slice(1)))])
    .filter(([, target]) => target);
  let due = false;
  const mark = () => {
    due = false;
    const end = scrollY > 0 && scrollY + innerHeight >= document.documentElement.scrollHeight - 2;
    let here = links[0];
    links.forEach((each) => {
      const { top } = each[1].getBoundingClientRect();
      if (top < (end ? innerHeight : 100) && each[1].getClientRects().length) here = each;
    });
    links.forEach(([link]) => {
      if (here && link === here[0]) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    });
  };
  const soon = () => { if (!due) { due = true; requestAnimationFrame(mark); } };
  window.addEventListener("scroll", soon, { passive: true });
  window.addEventListener("resize", soon);
  mark();

  // What a name means, beside it while it is pointed at or has the focus.
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.setAttribute("aria-hidden", "true"); // Its text is what the name is described by.
  if (tip.showPopover) tip.popover = "manual"; else tip.hidden = true;
  document.body.append(tip);
  let told = null;
  let closing = 0;
  const tell = (name) => {
    clearTimeout(closing);
    if (told === name) return;
    told = name;
    tip.textContent = document.getElementById(name.getAttribute("aria-describedby")).textContent;
    if (tip.showPopover) tip.showPopover(); else tip.hidden = false;
    const at = name.getBoundingClientRect();
    const own = tip.getBoundingClientRect();
    const below = at.bottom + 6 + own.height < innerHeight;
    tip.style.left = `${Math.max(8, Math.min(at.left, innerWidth - own.width - 8))}px`;
    tip.style.top = `${below ? at.bottom + 6 : Math.max(at.top - own.height - 6, 4)}px`;
  };
  const hush = () => {
    clearTimeout(closing);
    if (!told) return;
    told = null;
    if (tip.hidePopover) tip.hidePopover(); else tip.hidden = true;
  };
  const later = () => { clearTimeout(closing); closing = setTimeout(hush, 200); };
  const named = (event) => event.target.closest?.('[aria-describedby^="tip-"]');
  document.addEventListener("pointerover", (event) => {
    if (named(event)) tell(named(event));
    else if (event.target.closest?.(".tip")) clearTimeout(closing);
    else if (told && told !== document.activeElement) later();
  });
  document.addEventListener("focusin", (event) => { if (named(event)) tell(named(event)); });
  document.addEventListener("focusout", (event) => { if (named(event)) hush(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hush(); });
  window.addEventListener("scroll", hush, { passive: true, capture: true });

  // What is folded is printed as well, but for the numbers of figures.
  let unfolded = [];
  window.addEventListener("beforeprint", () => {
    unfolded = all("details:not([open])").filter((d) => !d.closest("figure"));
    unfolded.forEach((d) => { d.open = true; });
  });
  window.addEventListener("afterprint", () => unfolded.forEach((d) => { d.open = false; }));
})();
