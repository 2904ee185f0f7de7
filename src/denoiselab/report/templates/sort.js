// Sorts the ranking at a click on a column's name, and as the address says: #sort=fid, #sort=-fid for descending.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const sort = (column, down) => {
    const key = row => { const k = row.cells[column].dataset.key, n = Number(k); return Number.isNaN(n) ? k : n; };
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === Infinity || y === Infinity) return (x === Infinity) - (y === Infinity);
      const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return down ? -order : order;
    });
    body.append(...rows);
    heads.forEach((head, i) => head.setAttribute("aria-sort", i !== column ? "none" : down ? "descending" : "ascending"));
  };
  heads.forEach((head, i) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    button.title = "sort";
    button.addEventListener("click", () => sort(i, head.getAttribute("aria-sort") === "ascending"));
    head.append(button);
  });
  const asked = () => {
    const [, sign, name] = decodeURIComponent(location.hash).match(/^#sort=(-?)(.+)$/) || [];
    const column = heads.findIndex(head => head.dataset.name === name);
    if (column >= 0) sort(column, sign === "-");
  };
  addEventListener("hashchange", asked);
  asked();
  if (body.rows.length > 25) {  // as many as its picture shows; the first 20 stand, of whatever order
    const button = document.createElement("button"), fold = folded => {
      table.classList.toggle("folded", folded);
      button.textContent = folded ? `show all ${body.rows.length} rows` : "show the first 20 rows";
    };
    button.className = "copy";
    button.addEventListener("click", () => fold(!table.classList.contains("folded")));
    table.parentElement.after(button);
    fold(true);
  }
}
for (const block of document.querySelectorAll(".commands")) {
  const button = document.createElement("button");
  button.className = "copy";
  button.textContent = "copy";
  button.addEventListener("click", async event => {
    event.preventDefault();
    const text = [...block.querySelectorAll("code")].map(code => code.textContent).join("\n");
    await navigator.clipboard.writeText(text);
    button.textContent = "copied";
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
  block.querySelector("summary").append(button);
}
// A link to the commands of a rank opens them, again where they were closed since.
const open = hash => /^#r\d+$/.test(hash) && document.querySelector(`${hash} details`)?.setAttribute("open", "");
addEventListener("hashchange", () => open(location.hash));
for (const link of document.querySelectorAll('a[href^="#r"]')) link.addEventListener("click", () => open(link.hash));
open(location.hash);
