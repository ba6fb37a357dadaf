// The live table. What the agent says is put into the page as text only, never as markup.
const PERIOD = 2000;
const MOST_ROWS = 500;
const rows = document.getElementById("rows");
const summary = document.getElementById("summary");
const filter = document.getElementById("filter");
const more = document.getElementById("more");
// The agent's clock less ours: a phone's clock need not be right.
let ahead = 0;
let providers = [];

const inTrouble = (each) => !each.valid || each.output !== null || each.state === "failing";
const now = () => Date.now() / 1000 + ahead;

function span(seconds) {
  const left = Math.max(0, Math.round(seconds));
  for (const [size, unit, next] of [[86400, "d", 3600], [3600, "h", 60], [60, "min", 1]]) {
    if (left >= size) {
      const rest = Math.floor((left % size) / next);
      const units = { 3600: "h", 60: "min", 1: "s" };
      return `${Math.floor(left / size)} ${unit}` + (rest ? ` ${rest} ${units[next]}` : "");
    }
  }
  return `${left} s`;
}

function element(kind, className, text) {
  const made = document.createElement(kind);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function life(each) {
  const cell = element("td", "life");
  if (!each.valid || each.expires === null) {
    cell.append(element("small", "", "no valid token"));
    return cell;
  }
  const whole = Math.max(1, each.expires - each.issued);
  const left = Math.min(1, Math.max(0, (each.expires - now()) / whole));
  const bar = element("div", "bar");
  bar.setAttribute("role", "meter");
  bar.setAttribute("aria-valuemin", "0");
  bar.setAttribute("aria-valuemax", "100");
  bar.setAttribute("aria-valuenow", String(Math.round(100 * left)));
  bar.setAttribute("aria-label", `life left of the token of ${each.name}`);
  const level = element("i", "");
  level.style.width = `${100 * left}%`;
  bar.append(level);
  if (each.refresh !== null && each.refresh < each.expires) {
    const mark = element("b", "");
    mark.style.left = `${Math.max(0, (100 * (each.expires - each.refresh)) / whole)}%`;
    bar.append(mark);
    bar.classList.toggle("window", now() > each.refresh);
  }
  cell.append(bar, element("small", "", `${span(each.expires - now())} left of ${span(whole)}`));
  return cell;
}

function trouble(each) {
  const cell = element("td", "");
  for (const [what, when, kind] of [[each.output, each.output_at, "output"], [each.error, each.error_at, ""]]) {
    if (what !== null) cell.append(element("div", kind, what), element("small", "", `${span(now() - when)} ago`));
  }
  return cell;
}

function row(each) {
  const made = document.createElement("tr");
  const name = element("th", "", each.name);
  name.scope = "row";
  const state = element("td", "");
  state.append(element("span", `state ${each.state.replace(" ", "-")}`, each.state));
  made.append(name, state, life(each), trouble(each));
  return made;
}

function show() {
  const wanted = filter.value.trim().toLowerCase();
  const shown = providers
    .filter((each) => !wanted || `${each.name} ${each.state}`.toLowerCase().includes(wanted))
    .sort((one, other) => inTrouble(other) - inTrouble(one) || one.name.localeCompare(other.name));
  rows.replaceChildren(...shown.slice(0, MOST_ROWS).map(row));
  more.hidden = shown.length <= MOST_ROWS;
  more.textContent = `… and ${shown.length - MOST_ROWS} more: filter to see them.`;
  const troubled = providers.filter(inTrouble).length;
  summary.textContent = `${providers.length} providers, ` + (troubled ? `${troubled} in trouble` : "all well");
}

async function ask() {
  try {
    const answer = await fetch("status.json", { cache: "no-store" });
    const said = await answer.json();
    ahead = said.now - Date.now() / 1000;
    providers = said.providers;
    show();
  } catch {
    summary.textContent = "The agent does not answer.";
  }
  setTimeout(ask, document.hidden ? 5 * PERIOD : PERIOD);
}

filter.addEventListener("input", show);
ask();
