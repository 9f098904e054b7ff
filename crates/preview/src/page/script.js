// The control page: shows the news of the preview, and sends it what a person sets.

const COUNT = 1000;
const MAX_ROWS = 300;
// How long a slow LaunchDarkly takes.
const SLOW_MS = 2000;

const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

let state;
// What the visitors in the picture are known by: addresses, or ids of the visitor cookie.
let keys = [];
// The one that needs no cookie of the preview; empty for somebody new.
let own = "";
// The setting to send next; the flag as it is, until someone changes it.
let setting;
let isSending = false;
let isChanged = false;
// The function's last decision.
let lastDecision;
// What each visitor saw before, to show who moved.
let seen = "";

// ---- Sending ----

async function send(method, path, body) {
  const headers = body ? { "content-type": "application/json" } : {};
  const response = await fetch(`/__preview/${path}`, { method, headers, body: body && JSON.stringify(body) });
  const answer = response.headers.get("content-type")?.includes("json") ? await response.json() : {};
  byId("error").textContent = response.ok ? "" : answer.error ?? `The preview answered ${response.status}.`;
  return { isDone: response.ok, answer };
}

// A drag makes more settings than can be sent: only the latest is.
async function setFlag(changes) {
  setting = { ...setting, ...changes };
  isChanged = true;
  if (isSending) return true;
  isSending = true;
  let isDone = true;
  while (isChanged) {
    isChanged = false;
    ({ isDone } = await send("PUT", "flag", setting));
  }
  isSending = false;
  if (!isDone) showFlag();
  return isDone;
}

async function visitAs(key) {
  const { isDone } = key === own ? await send("DELETE", "viewer") : await send("PUT", "viewer", { key });
  if (isDone) visitAgain();
}

// Without an entry in the browser's history: Back leaves the page, not the visit.
function visitAgain(path = "/") {
  byId("site").contentWindow.location.replace(path);
}

// ---- Showing ----

function showFlag() {
  const { flag, population } = state;
  if (!population) {
    byId("percent").textContent = "?";
    byId("percent-text").textContent = "the flag is not known yet";
    return;
  }
  if (!isSending) {
    const percent = Math.round(flag.new_site_percent);
    setting = { on: flag.on, new_site_percent: percent, targets: flag.targets };
    byId("share").value = percent;
  }
  showShare(setting.new_site_percent, setting.on);
  byId("switch").setAttribute("aria-checked", String(setting.on));
  byId("switch-text").textContent = setting.on ? "On" : "Off";
  byId("moved").textContent = movement(flag, population);
  showVisitors();
  showTargets(flag.targets);
}

// Who sees which site: by the flag, unless the function has no flag data.
function showVisitors() {
  const { flag, population } = state;
  if (!population) return;
  const hasData = hasFlagData();
  const isBehind = hasData && lastDecision?.data === "older" && lastDecision.flag_version !== flag.version;
  const shown = hasData ? population.new : 0;
  byId("count-new").textContent = number.format(shown);
  byId("count-current").textContent = number.format(COUNT - shown);
  for (const verb of document.querySelectorAll(".verb")) verb.textContent = isBehind ? "would see" : "see";
  byId("dots").setAttribute("aria-label",
    `${number.format(COUNT)} simulated visitors: ${number.format(shown)} see the new site, ` +
    `${number.format(COUNT - shown)} the current one`);
  byId("behind").textContent = !hasData
    ? "The function has no flag data: whatever the flag says, every visitor gets the current site until LaunchDarkly answers."
    : isBehind
      ? `LaunchDarkly does not answer: the function decides from version ${lastDecision.flag_version} of the flag, the picture shows version ${flag.version}.`
      : "";
  showDots(hasData ? population.sees : "0".repeat(COUNT));
}

// Without a process, the next visitor meets a cold start.
function hasFlagData() {
  if (state.environment.state !== "none") return lastDecision?.data !== "default";
  return state.fault === "none" || (state.fault === "slow" && state.init_budget_ms > SLOW_MS);
}

function showShare(percent, isOn) {
  const share = byId("share");
  share.style.setProperty("--at", `${percent}%`);
  share.setAttribute("aria-valuetext", `${percent} % see the new site`);
  byId("percent").textContent = isOn ? `${percent} %` : "Off";
  byId("percent-text").textContent = isOn ? "are meant to see the new site" : "everyone sees the current site";
  byId("flag").classList.toggle("is-off", !isOn);
}

// What the last change did, in words.
function movement(flag, { drag, last_change: change }) {
  if (!flag.on) {
    return `Switched off: everyone sees the current site.${change.to_current ? ` ${plural(change.to_current, "visitor")} went back to it.` : ""}`;
  }
  const [from, to] = [Math.round(drag.from_percent), Math.round(drag.to_percent)];
  if (from !== to) {
    const site = to > from ? "to the new site" : "back to the current site";
    const moved = `From ${from} % to ${to} %: ${plural(drag.moved, "visitor")} moved ${site}`;
    return drag.moved_again
      ? `${moved}, ${number.format(drag.moved_again)} of them more than once.`
      : `${moved}, each of them once. Nobody flipped back and forth.`;
  }
  if (change.to_new || change.to_current) {
    return `The last change moved ${plural(change.to_new, "visitor")} to the new site and ${number.format(change.to_current)} to the current one.`;
  }
  return "Drag the slider: visitors move over, and nobody flips back and forth.";
}

// Who moved lights up.
function showDots(sees) {
  if (sees === seen) return;
  for (const [index, dot] of [...byId("dots").children].entries()) {
    dot.classList.toggle("new", sees[index] === "1");
    dot.classList.toggle("moved", seen !== "" && seen[index] !== sees[index]);
  }
  seen = sees;
}

function showTargets(targets) {
  const list = byId("targets");
  const isReadOnly = state.is_live;
  list.replaceChildren(...targets.map((target) => {
    const remove = element("button", { type: "button", disabled: isReadOnly }, "Remove");
    remove.setAttribute("aria-label", `Remove ${target.key}`);
    remove.addEventListener("click", () => {
      setFlag({ targets: setting.targets.filter(({ key }) => key !== target.key) });
      byId("target-key").focus();
    });
    const site = target.sees_new_site ? "new site" : "current site";
    return element("li", {}, mark(target.sees_new_site), element("span", {}, element("code", {}, target.key), ` sees the ${site}`), remove);
  }));
  if (!targets.length) list.append(element("li", { className: "none" }, "Nobody is targeted."));
}

function showRest() {
  const { is_live: isLive, environment, fault } = state;
  byId("flag-key").textContent = state.flag_key;
  byId("origin").textContent = isLive
    ? "CloudFront on this machine, with a real LaunchDarkly environment, read only"
    : "CloudFront on this machine, with a stand-in for LaunchDarkly";
  for (const control of [byId("switch"), byId("share"), byId("faults"), ...byId("target-form").elements]) {
    control.disabled = isLive;
  }
  const notes = [];
  if (isLive) notes.push("This flag is in LaunchDarkly: change it there. The picture follows within 5 s.");
  if (state.flag.rules) {
    const without = state.context_headers.length ? " The visitors in the picture send none of the headers that rules may look at." : "";
    notes.push(`The flag has ${state.flag.rules} rules before its default one.${without}`);
  }
  if (state.flag_problem) notes.push(`The flag was not read: ${state.flag_problem}`);
  byId("flag-note").textContent = notes.join(" ");
  byId("flag-note").hidden = !notes.length;

  byId("freshness").textContent =
    `The function may decide from flag data up to ${state.max_staleness_seconds} s old here, so that a change is seen at once; ` +
    `redirect.toml says ${state.deployed_max_staleness_seconds} s.` +
    (state.current_path === "/" ? " Whoever is led home stays there for a while, by a guard cookie, also if the flag changes." : "");
  showWho();
  document.querySelector(`[name="fault"][value="${fault}"]`).checked = true;
  const waits = `A visitor waits for at most ${number.format(state.viewer_budget_ms)} ms, at a cold start ` +
    `${number.format(state.init_budget_ms)} ms. Then older data decides; without any, it is the current site.`;
  byId("fault-note").textContent = isLive ? "A real LaunchDarkly cannot be made to fail from here." : {
    none: "Pick a fault, then visit: a visitor always gets a site.",
    down: `It accepts connections and never answers. ${waits}`,
    slow: waits,
    rejected: `It answers 401. The function tries again after at most ${state.max_staleness_seconds} s.`,
  }[fault];
  const label = { none: "not started", running: "running, warm", frozen: "frozen" }[environment.state];
  byId("environment").replaceChildren(element("b", {}, label),
    `, ${plural(environment.invocations, "request")}, ${plural(environment.cold_starts, "cold start")}` +
    (state.freezes ? "; frozen after every request" : ""));
  byId("freeze").disabled = environment.state === "none";
  byId("kill").disabled = environment.state === "none";
}

function plural(count, word) {
  return `${number.format(count)} ${word}${count === 1 ? "" : "s"}`;
}

// What a visitor is known by, and which cookies there are to forget.
function showWho() {
  const byCookie = state.visitor_cookie !== "";
  byId("visitor-label").textContent = byCookie ? `Visit as this id, the value of the cookie ${state.visitor_cookie}` : "Visit as this address";
  byId("target-label").textContent = byCookie ? "Id" : "Address";
  byId("target-key").placeholder = byCookie ? "visitor-7" : "203.0.113.7";
  const setsCookies = byCookie || state.has_preview_link || state.current_path === "/";
  byId("own").textContent = setsCookies ? "Forget me" : "Yourself";
  byId("move").hidden = !byCookie;
  byId("begin").hidden = byId("end").hidden = !state.has_preview_link;
}

async function showVisit() {
  if (!state) return;
  const { pathname, search } = byId("site").contentWindow.location;
  byId("seen-path").textContent = pathname + search;
  byId("seen-mark").classList.toggle("new", `${pathname}/`.startsWith(`${state.beta_path}/`));
  const { key } = await (await fetch("/__preview/viewer")).json();
  // Unless somebody is writing there.
  if (document.activeElement !== byId("visitor")) byId("visitor").value = key;
  for (const [index, dot] of [...byId("dots").children].entries()) dot.classList.toggle("you", keys[index] === key);
}

// ---- The log ----

const entries = new Map();

// A request and its decision arrive as two entries with one id, in any order.
function addEntry(added) {
  const { row: old, ...known } = entries.get(added.id) ?? {};
  const entry = { ...added, ...known };
  if (added.decision) {
    lastDecision = added.decision;
    showVisitors();
  }
  entries.set(entry.id, entry);
  if (!entry.served && entry.message === undefined) return;
  entry.row = entry.served ? requestRow(entry) : messageRow(entry);
  if (old) old.replaceWith(entry.row);
  else byId("log").prepend(entry.row);
  if (entries.size > MAX_ROWS) {
    const [oldest] = entries.keys();
    entries.get(oldest).row?.remove();
    entries.delete(oldest);
  }
  byId("empty").hidden = true;
}

function messageRow(entry) {
  const cell = element("td", { colSpan: 7 }, entry.message);
  return element("tr", { className: "message" }, element("td", {}, clock.format(entry.at_ms)), cell);
}

function requestRow({ at_ms: at, served, decision }) {
  const { viewer, visitor, method, url, sets_cookies: cookies } = served;
  const problem = served.problem ?? (decision && decision.level !== "info" ? decision.message : null);
  const answer = element("td", {}, `${served.status}`);
  if (served.location) answer.append(" to ", element("code", {}, served.location));
  else if (served.status < 300) answer.append(element("small", {}, `behavior ${served.behavior}`));
  if (cookies.length) answer.append(element("small", {}, `sets ${cookies.join(", ")}`));
  if (problem) answer.append(element("span", { className: "why" }, problem));

  const flag = element("td");
  if (typeof decision?.variation === "boolean") flag.append(mark(decision.variation), decision.variation ? "new" : "current");

  const without = { function: "not evaluated", script: "CloudFront Function", nothing: "no function" };
  const reason = element("td", {}, decision?.reason ?? without[served.handler]);
  if (decision?.error_kind) reason.append(element("small", {}, decision.error_kind));

  const data = element("td");
  if (decision?.data) {
    const age = decision.data_age_ms === undefined ? "" : `${duration(decision.data_age_ms * 1000)} old, `;
    if (decision.data === "default") data.append("none");
    else data.append(decision.data, element("small", {}, age + decision.source));
  }
  const took = element("td", {}, duration(served.took_us));
  const part = (microseconds, what) => took.append(element("small", {}, `${duration(microseconds)} ${what}`));
  if (served.start_us) {
    took.append(" ", element("span", { className: "badge" }, "cold"));
    part(served.start_us, "starting, with flag data");
  }
  const waited = decision?.waited_us ?? 0;
  if (waited) part(waited, "waiting for flag data");
  if (decision) part(decision.duration_us - waited, "deciding");

  const className = [served.handler === "function" || problem ? "" : "quiet", served.status >= 500 ? "fault" : ""].join(" ").trim();
  const who = element("td", {}, element("code", {}, viewer));
  if (state.visitor_cookie) who.append(element("small", { title: visitor ?? "" }, visitor?.slice(0, 12) ?? "no cookie"));
  return element("tr", { className },
    element("td", {}, clock.format(at)), who,
    element("td", {}, `${method} `, element("code", {}, url)), answer, flag, reason, data, took);
}

function duration(microseconds) {
  if (microseconds >= 10_000_000) return `${Math.round(microseconds / 1_000_000)} s`;
  if (microseconds >= 1_000_000) return `${(microseconds / 1_000_000).toFixed(1)} s`;
  return `${(microseconds / 1000).toFixed(microseconds < 10_000 ? 1 : 0)} ms`;
}

function mark(isNew) {
  return element("span", { className: isNew ? "mark new" : "mark" });
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// ---- Wiring ----

byId("share").addEventListener("input", ({ target }) => {
  showShare(target.valueAsNumber, setting.on);
  setFlag({ new_site_percent: target.valueAsNumber });
});
byId("switch").addEventListener("click", () => setFlag({ on: !setting.on }));
byId("target-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const target = { key: byId("target-key").value.trim(), sees_new_site: byId("target-site").value === "true" };
  const before = setting.targets;
  if (await setFlag({ targets: [...before, target] })) byId("target-key").value = "";
});
byId("visit-form").addEventListener("submit", (event) => {
  event.preventDefault();
  visitAs(byId("visitor").value.trim());
});
for (const button of document.querySelectorAll("[data-pick]")) {
  button.addEventListener("click", () => {
    const fitting = keys.filter((_, index) => seen[index] === button.dataset.pick);
    if (fitting.length) visitAs(fitting[Math.floor(Math.random() * fitting.length)]);
    else byId("error").textContent = `None of the ${number.format(COUNT)} visitors sees that site now.`;
  });
}
byId("own").addEventListener("click", () => visitAs(own));
byId("move").addEventListener("click", () => {
  document.cookie = `preview_viewer=203.0.113.${1 + Math.floor(Math.random() * 250)}; path=/; SameSite=Lax`;
  visitAgain();
});
byId("begin").addEventListener("click", () => visitAgain("/__preview/preview-link"));
byId("end").addEventListener("click", () => visitAgain("/?redirect-preview=off"));
byId("faults").addEventListener("change", ({ target }) => send("PUT", "fault", { fault: target.value }));
byId("freeze").addEventListener("click", () => send("POST", "environment/freeze"));
byId("kill").addEventListener("click", () => send("POST", "environment/kill"));
byId("all").addEventListener("change", ({ target }) => {
  document.querySelector(".log").classList.toggle("shows-all", target.checked);
});
byId("site").addEventListener("load", showVisit);

const hint = byId("hint").textContent;
const dotAt = ({ target }) => [...byId("dots").children].indexOf(target);
byId("dots").addEventListener("pointerover", (event) => {
  const index = dotAt(event);
  const site = seen[index] === "1" ? "new" : "current";
  byId("hint").textContent = index < 0 || !seen ? hint : `${keys[index]} sees the ${site} site. Click to visit as that visitor.`;
});
byId("dots").addEventListener("pointerleave", () => { byId("hint").textContent = hint; });
byId("dots").addEventListener("click", (event) => {
  const index = dotAt(event);
  if (index >= 0) visitAs(keys[index]);
});

byId("dots").append(...Array.from({ length: COUNT }, () => document.createElement("i")));
[keys, { own }] = await Promise.all(
  ["viewers", "viewer"].map(async (path) => (await fetch(`/__preview/${path}`)).json()),
);

const news = new EventSource("/__preview/news");
news.addEventListener("open", () => {
  // Every entry comes again.
  entries.clear();
  lastDecision = undefined;
  byId("log").replaceChildren();
  byId("error").textContent = "";
});
news.addEventListener("error", () => { byId("error").textContent = "The preview does not answer. Is it still running?"; });
news.addEventListener("state", ({ data }) => {
  const isFirst = !state;
  state = JSON.parse(data);
  showFlag();
  showRest();
  if (isFirst) visitAgain();
});
news.addEventListener("entry", ({ data }) => addEntry(JSON.parse(data)));
