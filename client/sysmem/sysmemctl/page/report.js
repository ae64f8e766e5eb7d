// Filters for the list of collections and the tables of messages. Without this script the page shows the same.
for (const part of document.querySelectorAll("[data-filter]")) {
  const rows = [...part.querySelectorAll("tbody tr, .index > li")];
  const label = document.createElement("label");
  label.className = "filter";
  const input = document.createElement("input");
  input.type = "search";
  const shown = document.createElement("output");
  label.append(`Show ${part.dataset.filter} with `, input, shown);
  const summary = part.querySelector("summary");
  if (summary) summary.after(label);
  else part.prepend(label);
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase();
    for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    const left = rows.filter((row) => !row.hidden).length;
    shown.textContent = wanted ? `${left} of ${rows.length}` : "";
  });
}
