// A filter above each table of messages. Without this script the page shows the same.
for (const log of document.querySelectorAll("details.log")) {
  const rows = [...log.querySelectorAll("tbody tr")];
  const label = document.createElement("label");
  label.className = "filter";
  const input = document.createElement("input");
  input.type = "search";
  const shown = document.createElement("output");
  label.append("Show messages with ", input, shown);
  log.querySelector("summary").after(label);
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    const left = rows.filter((row) => !row.hidden).length;
    shown.textContent = wanted ? `${left} of ${rows.length}` : "";
  });
}
