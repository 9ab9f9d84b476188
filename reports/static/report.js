"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Figures: drawn one after the other, so that the page can be read meanwhile.
  const config = {
    responsive: true, displaylogo: false, displayModeBar: "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
    toImageButtonOptions: { format: "svg" },
  };
  const waiting = all("script[data-for]");
  const draw = (source) => {
    const figure = JSON.parse(source.textContent);
    const target = document.getElementById(source.dataset.for);
    if (target.dataset.drawn) return;
    target.dataset.drawn = "yes";
    // A finger on a figure scrolls the page.
    if (matchMedia("(hover: none)").matches) figure.layout.dragmode = false;
    Plotly.newPlot(target, figure.data, figure.layout, config);
  };
  const next = () => {
    const source = waiting.shift();
    if (!source) { document.body.dataset.ready = "yes"; return; }
    draw(source);
    setTimeout(next, 0);
  };
  next();
  window.addEventListener("beforeprint", () => waiting.splice(0).forEach(draw));

  // One legend switches a variant in every figure of its run.
  all(".legend button").forEach((button) => button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    all(".plot[data-drawn]", button.closest(".figures")).forEach((plot) => {
      const traces = plot.data.map((t, i) => (t.meta === button.dataset.series ? i : -1));
      const own = traces.filter((i) => i >= 0);
      if (own.length) Plotly.restyle(plot, { visible: shown }, own);
    });
  }));

  // Sorting stays within a group: tracks, teacher and controls are never mixed.
  const value = (row, column, kind) => {
    const cell = row.cells[column];
    return kind === "name" ? cell.textContent.trim().toLowerCase() : parseFloat(cell.dataset.v);
  };
  const compare = (a, b) => {
    const holes = [a, b].map((v) => typeof v === "number" && Number.isNaN(v));
    if (holes[0] || holes[1]) return null;
    return a < b ? -1 : a > b ? 1 : 0;
  };
  all("button[data-sort]").forEach((button) => button.addEventListener("click", () => {
    const head = button.closest("th");
    const table = head.closest("table");
    const down = head.getAttribute("aria-sort") === "ascending";
    all("thead th", table).forEach((th) => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    all("tbody", table).forEach((body) => {
      const rows = all("tr[data-name]", body);
      const keys = new Map(rows.map((r) => [r, value(r, head.cellIndex, button.dataset.sort)]));
      rows.sort((a, b) => {
        const order = compare(keys.get(a), keys.get(b));
        // Holes stay at the end in both directions.
        if (order === null) return Number.isNaN(keys.get(a)) - Number.isNaN(keys.get(b));
        return down ? -order : order;
      }).forEach((row) => body.append(row));
    });
  }));

  all(".filter").forEach((input) => input.addEventListener("input", () => {
    const part = input.closest(".rankings");
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = all("tr[data-name]", part);
    const hit = (row) => words.every((word) => row.dataset.name.toLowerCase().includes(word));
    rows.forEach((row) => { row.hidden = !hit(row); });
    all("tbody", part).forEach((body) => {
      body.hidden = all("tr[data-name]", body).every((row) => row.hidden);
    });
    const names = (list) => new Set(list.map((row) => row.querySelector("th").textContent)).size;
    part.querySelector(".count").textContent = words.length
      ? `${names(rows.filter((row) => !row.hidden))} of ${names(rows)} shown` : "";
  }));

  all(".copy").forEach((button) => button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
    }
  }));

  all(".published-switch").forEach((box) => box.addEventListener("change", () => {
    box.closest(".tools").nextElementSibling.hidden = !box.checked;
  }));

  // One sample of a sheet, enlarged in every row: they share its noise.
  all("dialog.enlarged").forEach((dialog) => {
    let sheet = null;
    let shown = 0;
    const enlarge = (table, column) => {
      const count = Number(table.dataset.count);
      const labels = JSON.parse(table.dataset.labels);
      sheet = table;
      shown = (column + count) % count;
      const index = JSON.parse(table.dataset.index)[shown];
      const label = new Set(labels).size > 1 ? `, label ${labels[shown]}` : "";
      dialog.querySelector(".which").textContent = `Sample ${index}${label}`;
      dialog.querySelector(".tiles").replaceChildren(...all("tbody tr", table).map((row) => {
        const image = row.querySelector("img");
        const width = (image.naturalWidth - (count - 1)) / count;
        const height = image.naturalHeight;
        const name = [...row.querySelector("th").childNodes]
          .map((node) => node.textContent.trim()).join(" ");
        const canvas = document.createElement("canvas");
        canvas.width = width;
        canvas.height = height;
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `Sample ${index} of ${name}`);
        const from = [shown * (width + 1), 0, width, height];
        canvas.getContext("2d").drawImage(image, ...from, 0, 0, width, height);
        const caption = document.createElement("figcaption");
        caption.textContent = name;
        caption.title = name;
        const figure = document.createElement("figure");
        figure.append(canvas, caption);
        return figure;
      }));
      if (!dialog.open) dialog.showModal();
    };
    all("button.strip", dialog.parentElement).forEach((button) => {
      button.addEventListener("click", (event) => {
        const table = button.closest("table");
        const box = button.querySelector("img").getBoundingClientRect();
        // A key press has no place: the first sample.
        const share = event.detail ? (event.clientX - box.left) / box.width : 0;
        const inside = Math.min(Math.max(share, 0), 0.999);
        enlarge(table, Math.floor(inside * Number(table.dataset.count)));
      });
    });
    all("[data-step]", dialog).forEach((button) => button.addEventListener("click", () => {
      enlarge(sheet, shown + Number(button.dataset.step));
    }));
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (step) enlarge(sheet, shown + step);
    });
  });

  // What is folded is printed as well.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = all("details:not([open])");
    opened.forEach((d) => { d.open = true; });
  });
  window.addEventListener("afterprint", () => opened.forEach((d) => { d.open = false; }));
})();
