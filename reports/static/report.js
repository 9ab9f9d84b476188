"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Figures: drawn one after the other, so that the page can be read meanwhile.
  const config = {
    responsive: true, displaylogo: false, displayModeBar: "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
    toImageButtonOptions: { format: "svg" },
  };
  // What the legend and the switch of published numbers hide of a plot.
  const hidden = (plot) => {
    const off = all('.legend button[aria-pressed="false"]', plot.closest(".run"));
    const names = new Set(off.map((button) => button.dataset.series));
    if (plot.closest(".run").querySelector(".published-switch:not(:checked)")) {
      names.add("published:");
    }
    return names;
  };
  // A trace of several series stays as long as one of them does.
  const isShown = (trace, names) => {
    const own = [trace.meta ?? []].flat();
    return !own.length || own.some((name) => !names.has(name));
  };
  // What is out of sight has no width to draw in: it waits until it is shown.
  const isFolded = (part) => part.closest("details:not([open]), .glance:not(.on)") !== null;
  // The first screen's figure is as high as the page lets it be, and says less on a narrow one.
  const fitInto = (target, layout) => {
    delete layout.height;
    if (!target.clientWidth || target.clientWidth > 500) return; // None: drawn to be printed.
    [layout.xaxis, layout.yaxis].forEach((axis) => {
      axis.title.text = axis.title.text.replace("(higher is better)", "↑")
        .replace("(lower is better)", "↓");
    });
    layout.font.size = 11;
  };
  const draw = (source) => {
    const target = document.getElementById(source.dataset.for);
    if (target.dataset.drawn) return;
    target.dataset.drawn = "yes";
    const figure = JSON.parse(source.textContent);
    if ("fluid" in target.dataset) fitInto(target, figure.layout);
    // A finger on a figure scrolls the page.
    if (matchMedia("(hover: none)").matches) figure.layout.dragmode = false;
    const names = hidden(target);
    figure.data.forEach((trace) => { trace.visible = isShown(trace, names); });
    Plotly.newPlot(target, figure.data, figure.layout, config);
  };
  let waiting = [];
  const next = () => {
    const step = waiting.shift();
    if (!step) { document.body.dataset.ready = "yes"; return; }
    step();
    setTimeout(next, 0);
  };
  const explorers = new Map();
  const drawIn = (root) => {
    const idle = !waiting.length && document.body.dataset.ready !== undefined;
    const sources = all("script[data-for]", root).filter((source) => !isFolded(source));
    waiting.push(...sources.map((source) => () => draw(source)));
    explorers.forEach((redraw, plot) => {
      if (root.contains(plot) && !plot.dataset.drawn && !isFolded(plot)) waiting.push(redraw);
    });
    if (idle && waiting.length) { delete document.body.dataset.ready; next(); }
  };
  document.addEventListener("shown", (event) => {
    drawIn(event.target);
    // Drawn in another width than it now has.
    all(".plot[data-drawn]", event.target).filter((plot) => !isFolded(plot))
      .forEach((plot) => { if (plot.data) Plotly.Plots.resize(plot); });
  });
  window.addEventListener("beforeprint", () => {
    waiting = [];
    all("script[data-for]").forEach(draw);
    explorers.forEach((redraw, plot) => { if (!plot.dataset.drawn) redraw(); });
  });

  // One legend switches a variant in every figure of its run; those in sight first.
  const inSight = (plot) => {
    const box = plot.getBoundingClientRect();
    return box.bottom > 0 && box.top < innerHeight;
  };
  const soon = (work) => {
    const step = () => { const next = work.shift(); if (next) { next(); setTimeout(step, 0); } };
    step();
  };
  const update = (plot) => {
    if (explorers.has(plot)) { explorers.get(plot)(); return; }
    const names = hidden(plot);
    [true, false].forEach((shown) => {
      const changed = plot.data.map((_, i) => i).filter((i) => {
        const trace = plot.data[i];
        return isShown(trace, names) === shown && (trace.visible ?? true) !== shown;
      });
      if (changed.length) Plotly.restyle(plot, { visible: shown }, changed);
    });
  };
  // Figures that are still to be drawn ask for themselves.
  const updateAll = (root) => {
    const plots = all(".plot[data-drawn]", root);
    const seen = plots.filter(inSight);
    soon([...seen, ...plots.filter((plot) => !seen.includes(plot))]
      .map((plot) => () => update(plot)));
  };
  all(".legend button").forEach((button) => button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    const run = button.closest(".run");
    all(".legend button", run).filter((each) => each.dataset.series === button.dataset.series)
      .forEach((each) => each.setAttribute("aria-pressed", String(shown)));
    updateAll(run);
  }));

  // Any two measures against each other.
  const number = (v) => (v === null || v === undefined ? "—"
    : String(Number(v.toPrecision(4))).replace("-", "−"));
  // A value and its interval with the digits that its half width supports, as in the tables.
  const told = (v) => {
    const half = v.length > 1 && v[1] !== null ? (v[2] - v[1]) / 2 : 0;
    if (!(half > 0)) return [number(v[0]), ""];
    const width = Math.log10(half);
    const places = Math.max(-Math.floor(width) + (width - Math.floor(width) < Math.log10(2.95)), 0);
    const write = (x) => (places > 6 ? x.toPrecision(3) : x.toFixed(places)).replace("-", "−");
    return [write(v[0]), `[${write(v[1])}, ${write(v[2])}]`];
  };
  const bars = (values) => ({
    type: "data", symmetric: false, thickness: 1.2, width: 3,
    array: values.map((v) => (v.length > 1 && v[2] !== null ? v[2] - v[0] : 0)),
    arrayminus: values.map((v) => (v.length > 1 && v[1] !== null ? v[0] - v[1] : 0)),
  });
  const front = (points, x, y) => points.filter((p) => !points.some((q) => {
    const gains = [[x, "x"], [y, "y"]].map(([m, k]) => (m.higher ? 1 : -1) * (q[k][0] - p[k][0]));
    return gains.every((g) => g >= 0) && gains.some((g) => g > 0);
  })).sort((a, b) => a.x[0] - b.x[0]);
  const wide = (m, values) => {
    const low = Math.min(...values), high = Math.max(...values);
    return !m.higher && values.length > 1 && low > 0 && high / low > 8;
  };
  // Whole powers with their 2 and 5, as in the other figures: plotly labels every digit.
  const ticks = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)].map(Math.log10);
    const powers = Array.from({ length: Math.ceil(high) - Math.floor(low) + 2 },
      (_, i) => Math.floor(low) - 1 + i);
    return powers.flatMap((e) => (high - low < 2.3 ? [1, 2, 5] : [1])
      .map((m) => Number(`${m}e${e}`)));
  };
  const rules = (x, y) => {
    const own = [...new Set([x.protocol, y.protocol].filter(Boolean))];
    return own.length ? [`protocol ${own.join(" and ")}`] : [];
  };
  all(".explorer").forEach((figure) => {
    const { measures, series } = JSON.parse(figure.querySelector(".measures").textContent);
    const plot = figure.querySelector(".plot");
    const pick = (name) => figure.querySelector(`[data-axis="${name}"]`).value;
    const redraw = () => {
      const off = hidden(plot);
      const [x, y] = [measures[pick("x")], measures[pick("y")]];
      const at = pick("nfe");
      const points = [];
      const traces = series.flatMap((s) => {
        const own = Object.keys(s.at).filter((n) => !at || n === at).sort((a, b) => a - b)
          .map((n) => ({ s, n, x: s.at[n][pick("x")], y: s.at[n][pick("y")] }))
          .filter((p) => p.x && p.y && p.x[0] !== null && p.y[0] !== null);
        points.push(...own);
        if (!own.length) return [];
        const open = s.symbol.endsWith("-open");
        return [{
          type: "scatter", mode: at ? "markers" : "lines+markers", name: s.shown, meta: s.name,
          x: own.map((p) => p.x[0]), y: own.map((p) => p.y[0]),
          error_x: bars(own.map((p) => p.x)), error_y: bars(own.map((p) => p.y)),
          line: { color: s.colour, width: 2, dash: s.dash },
          marker: { color: s.colour, symbol: s.symbol, size: 10,
            line: { color: s.colour, width: open ? 2 : 0.5 } },
          visible: !off.has(s.name),
          text: own.map((p) => [`<b>${s.shown}</b>, ${p.n} NFE`,
            ...[[x, p.x], [y, p.y]].map(([m, v]) => `${m.label} ${told(v).join(" ")}`
              + (v[3] ? `, n = ${v[3]}` : "")),
            ...rules(x, y)].join("<br>")),
          hovertemplate: "%{text}<extra></extra>",
        }];
      });
      const ranked = points.filter((p) => p.s.track !== "none" && !off.has(p.s.name));
      if (at && x.higher !== null && y.higher !== null) {
        [...new Set(ranked.map((p) => p.s.track))].forEach((track) => {
          const edge = front(ranked.filter((p) => p.s.track === track), x, y);
          if (edge.length > 1) {
            traces.unshift({ type: "scatter", mode: "lines", hoverinfo: "skip",
              x: edge.map((p) => p.x[0]), y: edge.map((p) => p.y[0]),
              line: { color: "#6b7280", width: 1.2, dash: "dot" } });
          }
        });
      }
      const axis = (m, values) => ({
        showline: true, linecolor: "#6b7280", ticks: "outside", ticklen: 4, zeroline: false,
        gridcolor: "rgba(128,128,128,.22)", automargin: true, type: wide(m, values) ? "log" : "linear",
        ...(Math.max(...values.map(Math.abs)) < 1 && { exponentformat:
          Math.max(...values.map(Math.abs)) < 1e-4 ? "power" : "none" }),
        title: { standoff: 8, text: m.label + (m.higher === null ? "" : m.higher ? " ↑" : " ↓") },
        ...(wide(m, values) && { tickvals: ticks(values), ticktext: ticks(values).map(String) }),
      });
      const layout = {
        height: 420, margin: { l: 56, r: 14, t: 12, b: 40 }, showlegend: false,
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
        font: { family: "system-ui, sans-serif", size: 12.5, color: "#6b7280" },
        xaxis: axis(x, points.map((p) => p.x[0])), yaxis: axis(y, points.map((p) => p.y[0])),
        dragmode: matchMedia("(hover: none)").matches ? false : "zoom",
      };
      plot.dataset.drawn = "yes";
      Plotly.react(plot, traces, layout, config);
      const row = (cells, kind) => {
        const tr = document.createElement("tr");
        tr.append(...cells.map((text) => {
          const cell = document.createElement(kind);
          if (kind === "th") cell.scope = "col";
          cell.textContent = text;
          return cell;
        }));
        return tr;
      };
      const heads = ["Variant", "NFE", y.label, "95 % interval", x.label, "95 % interval"];
      figure.querySelector("thead").replaceChildren(row(heads, "th"));
      figure.querySelector("tbody").replaceChildren(...points.map((p) => row([p.s.name, p.n,
        ...[p.y, p.x].flatMap((v) => [told(v)[0], told(v)[1] || "—"])], "td")));
    };
    explorers.set(plot, redraw);
    all("select", figure).forEach((s) => s.addEventListener("change", redraw));
  });
  drawIn(document);
  next();

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
  const arrange = (table) => {
    const head = table.querySelector("th[aria-sort]");
    if (!head) return;
    const down = head.getAttribute("aria-sort") === "descending";
    const { sort } = head.querySelector("button").dataset;
    all("tbody", table).forEach((body) => {
      const rows = all("tr[data-name]", body);
      const keys = new Map(rows.map((r) => [r, value(r, head.cellIndex, sort)]));
      rows.sort((a, b) => {
        const order = compare(keys.get(a), keys.get(b));
        // Holes stay at the end in both directions.
        if (order === null) return Number.isNaN(keys.get(a)) - Number.isNaN(keys.get(b));
        return down ? -order : order;
      }).forEach((row) => body.append(row));
    });
  };
  all("button[data-sort]").forEach((button) => button.addEventListener("click", () => {
    const head = button.closest("th");
    const down = head.getAttribute("aria-sort") === "ascending";
    all("thead th", head.closest("table")).forEach((th) => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    arrange(head.closest("table"));
  }));

  // Rankings are narrowed by words, method, family and NFE, or show one train seed.
  all(".rankings").forEach((part) => {
    const input = part.querySelector(".filter");
    if (!input) return;
    const rows = all("tr[data-name]", part)
      .map((row) => ({ row, words: row.dataset.name.toLowerCase(), name: row.cells[0].textContent }));
    const cells = all("td[data-seeds]", part).map((cell) => ({
      cell, mean: cell.querySelector(".v"), span: cell.querySelector(".ci"),
      kept: [...cell.querySelector(".v").childNodes], value: cell.dataset.v, seeds: null,
    }));
    let shownSeed = "";
    const showSeed = (seed) => {
      if (seed === shownSeed) return;
      shownSeed = seed;
      cells.forEach((c) => {
        c.seeds ??= JSON.parse(c.cell.dataset.seeds);
        const [text, own] = c.seeds[seed] ?? ["—", NaN];
        if (seed) c.mean.textContent = text; else c.mean.replaceChildren(...c.kept);
        c.cell.dataset.v = seed ? String(own) : c.value;
        if (c.span) c.span.hidden = Boolean(seed);
      });
      all("table.ranking", part).forEach(arrange);
    };
    const narrow = () => {
      const wanted = Object.fromEntries(all(".narrow", part).map((s) => [s.dataset.by, s.value]));
      const parts = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      rows.forEach((r) => {
        r.row.hidden = !(parts.every((word) => r.words.includes(word))
          && ["method", "family"].every((by) => !wanted[by] || r.row.dataset[by] === wanted[by]));
      });
      all("tbody", part).forEach((body) => {
        const own = all("tr[data-name]", body);
        if (own.length) body.hidden = own.every((row) => row.hidden);
      });
      all(".at", part).forEach((block) => {
        block.hidden = Boolean(wanted.nfe) && block.dataset.nfe !== wanted.nfe;
      });
      showSeed(wanted.seed || "");
      const names = (list) => new Set(list.map((r) => r.name)).size;
      const narrowed = parts.length || wanted.method || wanted.family;
      part.querySelector(".count").textContent = narrowed
        ? `${names(rows.filter((r) => !r.row.hidden))} of ${names(rows)} shown` : "";
    };
    input.addEventListener("input", narrow);
    all(".narrow", part).forEach((select) => select.addEventListener("change", narrow));
  });

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
    updateAll(box.closest(".run"));
  }));

  // One label of a sheet: its columns alone, cut out of the strips.
  const columns = (table) => {
    const labels = JSON.parse(table.dataset.labels);
    const wanted = table.dataset.label;
    const every = labels.map((_, i) => i);
    return wanted === undefined ? every.slice(0, Number(table.dataset.shown))
      : every.filter((i) => labels[i] === wanted);
  };
  const tileWidth = (image, count) => (image.naturalWidth - (count - 1)) / count;
  all(".label-filter").forEach((select) => select.addEventListener("change", () => {
    all("table.grid[data-labels]", select.closest("section")).forEach((table) => {
      if (select.value) table.dataset.label = select.value; else delete table.dataset.label;
      const kept = columns(table);
      const count = Number(table.dataset.count);
      all(".labels > span", table).forEach((span, i) => {
        span.hidden = Boolean(select.value) && !kept.includes(i);
      });
      all("button.strip", table).forEach((button) => {
        const image = button.querySelector("img");
        button.querySelector("canvas")?.remove();
        image.hidden = Boolean(select.value);
        if (!select.value) return;
        const width = tileWidth(image, count), height = image.naturalHeight;
        const canvas = document.createElement("canvas");
        canvas.width = kept.length * (width + 1) - 1;
        canvas.height = height;
        canvas.style.width = `${canvas.width * image.height / height}px`;
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `${image.alt}, ${table.dataset.word} ${select.value}`);
        const context = canvas.getContext("2d");
        kept.forEach((c, i) => context.drawImage(
          image, c * (width + 1), 0, width, height, i * (width + 1), 0, width, height,
        ));
        button.append(canvas);
      });
    });
  }));

  // One sample of a sheet, enlarged in every row: they share its noise.
  all("dialog.enlarged").forEach((dialog) => {
    let sheet = null;
    let shown = 0;
    const enlarge = (table, place) => {
      const count = Number(table.dataset.count);
      const labels = JSON.parse(table.dataset.labels);
      const kept = columns(table);
      sheet = table;
      shown = (place + kept.length) % kept.length;
      const column = kept[shown];
      const index = JSON.parse(table.dataset.index)[column];
      const label = new Set(labels).size > 1 ? `, ${table.dataset.word} ${labels[column]}` : "";
      dialog.querySelector(".which").textContent = `Sample ${index}${label}`;
      dialog.querySelector(".tiles").replaceChildren(...all("tbody tr", table).map((row) => {
        const image = row.querySelector("img");
        const width = tileWidth(image, count);
        const height = image.naturalHeight;
        const name = [...row.querySelector("th").childNodes]
          .map((node) => node.textContent.trim()).join(" ");
        const canvas = document.createElement("canvas");
        canvas.width = width;
        canvas.height = height;
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `Sample ${index} of ${name}`);
        const from = [column * (width + 1), 0, width, height];
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
    const run = dialog.closest(".run");
    // A strip of the first screen shows the sheet's first samples, smaller.
    all(".strips button.strip", run).forEach((button) => {
      button.addEventListener("click", (event) => {
        const sheet = run.querySelector(`table.grid[data-nfe="${button.dataset.nfe}"]`);
        const at = event.clientX - button.querySelector("img").getBoundingClientRect().left;
        const place = event.detail ? Math.floor(Math.max(at, 0) / Number(button.dataset.step)) : 0;
        if (sheet) { delete sheet.dataset.label; enlarge(sheet, place); }
      });
    });
    all("button.strip", dialog.parentElement).forEach((button) => {
      button.addEventListener("click", (event) => {
        const table = button.closest("table");
        const picture = button.querySelector("canvas") || button.querySelector("img");
        const box = picture.getBoundingClientRect();
        const drawn = table.dataset.label === undefined ? Number(table.dataset.count)
          : columns(table).length;
        // A key press has no place: the first sample.
        const share = event.detail ? (event.clientX - box.left) / box.width : 0;
        enlarge(table, Math.floor(Math.min(Math.max(share, 0), 0.999) * drawn));
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

  // A run that goes on: its page is remade in this place, and the stamp beside it then differs.
  const { live, seconds } = document.body.dataset;
  if (live) {
    const wanted = document.querySelector(".refresh");
    window.piflowStamp = (stamp) => {
      if (stamp !== live && wanted.checked && !document.querySelector("dialog[open]")) {
        location.reload();
      }
    };
    setInterval(() => {
      const look = document.createElement("script");
      look.src = `stamp.js?${Date.now()}`;
      look.onload = look.onerror = () => look.remove();
      document.head.append(look);
    }, 1000 * Number(seconds));
  }

  // Figures are as wide as paper lets their columns be: a figure keeps its width on the screen
  // otherwise, and is cut.
  window.addEventListener("beforeprint", () => {
    all(".plot[data-drawn]").forEach((plot) => {
      const wide = plot.closest(".trade, .plots.one");
      const height = "fluid" in plot.dataset ? { height: 270 } : {};
      Plotly.relayout(plot, { width: wide ? 660 : 295, autosize: false, ...height });
    });
  });
  window.addEventListener("afterprint", () => {
    all(".plot[data-drawn]").forEach((plot) => {
      const height = "fluid" in plot.dataset ? { height: null } : {};
      Plotly.relayout(plot, { width: null, autosize: true, ...height });
    });
  });
})();
