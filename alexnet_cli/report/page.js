
"use strict";
(() => {
  const charts = JSON.parse(document.getElementById("data").textContent);
  const svgElement = (name, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };

  // --- which axis

  const choice = document.querySelector(".choice");
  if (choice) {
    const show = (unit) => {
      for (const chart of document.querySelectorAll(".chart")) chart.hidden = chart.dataset.unit !== unit;
    };
    choice.hidden = false;
    choice.addEventListener("change", (event) => show(event.target.value));
    show(choice.querySelector("input:checked").value);
  }

  // --- values under the pointer, or by the arrow keys

  for (const svg of document.querySelectorAll("svg[data-chart]")) {
    const { unit, xRange, yRange, lines } = charts[svg.dataset.chart];
    const [left, right, top, bottom] = ["left", "right", "top", "bottom"].map((side) => Number(svg.dataset[side]));
    const across = (x) => left + ((right - left) * (x - xRange[0])) / (xRange[1] - xRange[0]);
    const down = (y) => bottom - ((bottom - top) * (y - yRange[0])) / (yRange[1] - yRange[0]);
    const output = svg.parentElement.querySelector("output");
    const cursor = svg.appendChild(svgElement("g", { "aria-hidden": "true" }));
    const stops = [...new Set(lines.flatMap((line) => line.x))].sort((a, b) => a - b);
    let stop = -1;

    const nearest = (values, x) => {
      let best = 0;
      values.forEach((value, place) => {
        if (Math.abs(value - x) < Math.abs(values[best] - x)) best = place;
      });
      return best;
    };
    const tell = (x) => {
      cursor.replaceChildren(svgElement("line", { class: "cursor", x1: across(x), x2: across(x), y1: top, y2: bottom }));
      const said = lines.map((line) => {
        const place = nearest(line.x, x);
        const where = { class: `dot run-${line.place % 6}`, cx: across(line.x[place]), cy: down(line.y[place]), r: 4 };
        cursor.append(svgElement("circle", where));
        return `${line.run}, ${line.name}: ${line.y[place]} at ${line.x[place]} ${unit}`;
      });
      output.textContent = said.join("\n");
    };
    const leave = () => {
      stop = -1;
      cursor.replaceChildren();
      output.textContent = "";
    };

    if (!stops.length) continue;
    svg.addEventListener("pointermove", (event) => {
      const place = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      const x = xRange[0] + ((place.x - left) / (right - left)) * (xRange[1] - xRange[0]);
      stop = nearest(stops, x);
      tell(stops[stop]);
    });
    svg.addEventListener("pointerleave", leave);
    svg.addEventListener("blur", leave);
    svg.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -Infinity, End: Infinity }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      stop = Math.min(stops.length - 1, Math.max(0, stop + by));
      tell(stops[stop]);
    });
  }

  // --- tables that sort, and their search

  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      const numeric = head.classList.contains("number");
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const text = (row) => row.cells[column].textContent;
        // What has no value comes last, whichever way.
        const order = (a, b) => {
          if (!text(a) || !text(b)) return Number(!text(a)) - Number(!text(b));
          const ahead = numeric ? Number(text(a)) - Number(text(b)) : collator.compare(text(a), text(b));
          return up ? ahead : -ahead;
        };
        body.append(...[...body.rows].sort(order));
      });
    });
  }

  for (const part of document.querySelectorAll(".classes")) {
    const find = part.querySelector(".find");
    const rows = [...part.querySelector("tbody").rows];
    const names = rows.map((row) => [...row.querySelectorAll(".named")].map((cell) => cell.textContent).join(" ").toLowerCase());
    const search = () => {
      const wanted = find.querySelector("input").value.trim().toLowerCase();
      rows.forEach((row, place) => { row.hidden = !names[place].includes(wanted); });
      const left = rows.filter((row) => !row.hidden).length;
      find.querySelector("output").textContent = `${left} of ${rows.length} classes`;
    };
    find.hidden = false;
    find.addEventListener("input", search);
    search();
  }
})();
