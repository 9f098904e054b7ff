// What a person does with the preview, in Chromium. Needs chromium on the PATH and the binaries of
// `cargo build --package redirect --package preview`.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { Person, hasNoViolation, launched } from "./chromium.mjs";
import { Preview, repository } from "./preview.mjs";

const screenshots = fileURLToPath(new URL("../../../target/preview-screenshots/", import.meta.url));

let preview;
let browser;
let person;
let control;
let page;

before(async () => {
  mkdirSync(screenshots, { recursive: true });
  [preview, browser] = await Promise.all([Preview.start(), launched()]);
});

after(async () => {
  await browser?.close();
  assert.equal(await preview?.stop(), 0);
});

beforeEach(async () => {
  person = await Person.arrives(browser, preview);
  page = person.page;
  control = await person.opened("/__preview");
  // What the page shows once it has the state.
  await control.locator("#origin").filter({ hasText: /./ }).waitFor();
});

afterEach(async () => {
  await setFlag({ on: true, new_site_percent: 50, targets: [] });
  await person.leaves();
});

const setFlag = (flag) => person.setFlag(flag);
const visitAs = (key) => (key ? person.control("PUT", "viewer", { key }) : person.control("DELETE", "viewer"));
const visit = (path) => person.visit(path);
const visitUntilFresh = (path) => person.visitUntilFresh(path);
const where = () => person.where();
const isNew = () => person.isNew();
const picturesAreLoaded = () => person.picturesAreLoaded();

// What makes a page scroll sideways; a part with a scroll bar of its own does not.
function tooWide(tab) {
  return tab.evaluate(() => {
    const { clientWidth, scrollWidth } = document.documentElement;
    if (scrollWidth <= clientWidth) return [];
    const wide = [...document.querySelectorAll("body *")].filter((part) => part.getBoundingClientRect().right > clientWidth);
    return [`${scrollWidth} px`, ...wide.map((part) => part.outerHTML.slice(0, 120))];
  });
}

async function drag(key, percent) {
  await control.locator("#share").focus();
  await control.keyboard.press(key);
  await preview.until(() => preview.state.flag.new_site_percent === percent);
}

test("a first visit lands on one of the sites, with its pictures", async () => {
  await visit("/");
  assert.match(where(), /^\/site\/(beta\/)?index\.html$/);
  await picturesAreLoaded();
});

test("the slider to 100 % and back moves the visitor within the freshness window", async () => {
  await drag("End", 100);
  await control.locator("#count-new").filter({ hasText: "1,000" }).waitFor();
  await visitUntilFresh("/");
  assert.ok(isNew(), where());
  await picturesAreLoaded();
  await drag("Home", 0);
  await visitUntilFresh("/");
  assert.ok(!isNew(), where());
});

test("the picture moves with the slider, and nobody flips back and forth", async () => {
  await drag("Home", 0);
  for (let percent = 1; percent <= 20; percent += 1) {
    const before = preview.state.population.sees;
    await drag("ArrowRight", percent);
    const { sees, drag: course } = preview.state.population;
    assert.ok([...sees].every((digit, index) => digit >= before[index]), `${percent} %: someone moved back`);
    assert.equal(course.moved_again, 0);
  }
  const shown = preview.state.population.new;
  await control.locator("#count-new").filter({ hasText: String(shown) }).waitFor();
  assert.equal(await control.locator("#dots i.new").count(), shown);
  assert.ok(shown > 140 && shown < 260, `${shown} of 1,000 at 20 %`);
  assert.match(await control.locator("#moved").textContent(), /From 0 % to 20 %: \d+ visitors moved .* Nobody flipped/);
});

test("the switch is not counted as a part of a drag", async () => {
  await drag("End", 100);
  for (const isOn of [false, true]) {
    await control.getByRole("switch").click();
    await preview.until(() => preview.state.flag.on === isOn);
  }
  for (let percent = 99; percent >= 70; percent -= 1) await drag("ArrowLeft", percent);
  const moved = 1000 - preview.state.population.new;
  await control.locator("#moved", { hasText: `From 100 % to 70 %: ${moved} visitors moved back` }).waitFor();
  assert.match(await control.locator("#moved").textContent(), /each of them once\. Nobody flipped/);
});

test("the picture says when the function decides from another version of the flag", async () => {
  await visitUntilFresh("/");
  await control.getByLabel("Is down").check();
  await preview.until(() => preview.state.fault === "down");
  await drag("End", 100);
  await control.getByRole("button", { name: "Freeze it for 10 minutes" }).click();
  await preview.until(() => preview.state.environment.state === "frozen");
  const decision = await preview.decision((await visit("/")).first);
  const expected = `from version ${decision.flag_version} of the flag, the picture shows version ${preview.state.flag.version}`;
  await control.locator("#behind", { hasText: expected }).waitFor();
  assert.deepEqual(await control.locator(".verb").allTextContents(), ["would see", "would see"]);
  await control.getByLabel("Answers", { exact: true }).check();
  await preview.until(() => preview.state.fault === "none");
  await person.visitUntilRecovered();
  await control.locator("#behind").filter({ hasNotText: /./ }).waitFor({ state: "attached" });
  assert.deepEqual(await control.locator(".verb").allTextContents(), ["see", "see"]);
});

test("the same visitor gets the same site at 50 %, the one in the picture", async () => {
  const addresses = await (await page.request.get(`${preview.url}/__preview/viewers`)).json();
  await visitUntilFresh("/");
  const sites = new Set();
  for (let index = 0; index < addresses.length; index += 40) {
    await visitAs(addresses[index]);
    for (let again = 0; again < 3; again += 1) {
      await visit("/");
      assert.equal(isNew(), preview.state.population.sees[index] === "1", addresses[index]);
    }
    sites.add(isNew());
  }
  assert.equal(sites.size, 2, "both sites were seen");
});

test("a deep link keeps its path and query", async () => {
  await visit("/about.html?from=a%20letter&x=1&x=2");
  assert.match(where(), /^\/site\/(beta\/)?about\.html\?from=a%20letter&x=1&x=2$/);
  await picturesAreLoaded();
});

test("back leads back, without a loop", async () => {
  const { redirects } = await visit("/");
  assert.equal(redirects, 1);
  const first = where();
  await page.getByRole("navigation").getByRole("link", { name: /^About/ }).click();
  await page.waitForURL(/about\.html$/);
  await page.goBack();
  assert.equal(where(), first);
  await page.goBack();
  assert.equal(page.url(), "about:blank");
  await page.goForward();
  assert.equal(where(), first);
});

test("directories and front pages lead to a page", async () => {
  for (const path of ["/site", "/site/", "/site/beta", "/site/beta/"]) {
    const { redirects } = await visit(path);
    assert.ok(redirects >= 1 && where().endsWith("/index.html"), `${path} led to ${where()}`);
  }
});

test("a visitor on a page of the new site is led home when the flag is switched off", async () => {
  await drag("End", 100);
  await visitUntilFresh("/");
  assert.ok(isNew(), where());
  const toggle = control.getByRole("switch");
  await toggle.focus();
  await control.keyboard.press("Space");
  await preview.until(() => !preview.state.flag.on);
  await control.getByRole("switch", { checked: false }).waitFor();
  await person.followHome();
  assert.match(where(), /^\/site\/(about|index)\.html$/);
  await picturesAreLoaded();
});

test("a targeted visitor sees one site whatever the share is", async () => {
  await drag("Home", 0);
  await control.getByLabel("Address", { exact: true }).fill("203.0.113.7");
  await control.getByRole("button", { name: "Add" }).click();
  await preview.until(() => preview.state.flag.targets.length === 1);
  await visitAs("203.0.113.7");
  await visitUntilFresh("/");
  assert.ok(isNew(), where());
  await visitAs(null);
  await visit("/");
  assert.ok(!isNew(), where());
  await control.getByRole("button", { name: "Remove 203.0.113.7" }).click();
  await preview.until(() => preview.state.flag.targets.length === 0);
});

test("what is no address is refused with a reason", async () => {
  // The console has an error for any refused request.
  control.removeAllListeners("console");
  await control.getByLabel("Visit as this address").fill("somebody");
  await control.getByRole("button", { name: "Visit", exact: true }).click();
  await control.getByRole("alert").filter({ hasText: '"somebody" is not an IP address' }).waitFor();
});

test("the control page shows the site as another visitor", async () => {
  const frame = control.frameLocator("#site");
  for (const [name, path] of [["Someone on the new site", /^\/site\/beta\//], ["Someone on the current site", /^\/site\/index/]]) {
    await visitUntilFresh("/");
    await control.getByRole("button", { name }).click();
    await control.locator("#seen-path").filter({ hasText: path }).waitFor();
    await frame.locator("h1").waitFor();
  }
});

test("LaunchDarkly is down at a cold start: still a site", async () => {
  await drag("End", 100);
  await control.getByLabel("Is down").check();
  await preview.until(() => preview.state.fault === "down");
  const { viewer_budget_ms: viewerBudget, init_budget_ms: initBudget } = preview.state;
  const waits = `at most ${viewerBudget} ms, at a cold start ${initBudget.toLocaleString("en")} ms`;
  await control.locator("#fault-note", { hasText: waits }).waitFor();
  await control.getByRole("button", { name: "Kill it" }).click();
  await preview.until(() => preview.state.environment.state === "none");
  const everyoneOn = async (site) => {
    for (const [other, count] of [["new", site === "new" ? "1,000" : "0"], ["current", site === "new" ? "0" : "1,000"]]) {
      await control.locator(`#count-${other}`).filter({ hasText: new RegExp(`^${count}$`) }).waitFor();
    }
    assert.equal(await control.locator("#dots i.new").count(), site === "new" ? 1000 : 0);
  };
  await everyoneOn("current");
  const { first } = await visit("/");
  const decision = await preview.decision(first);
  assert.equal(decision.data, "default");
  assert.equal(where(), "/site/index.html");
  await picturesAreLoaded();
  await control.locator("#behind", { hasText: "no flag data" }).waitFor();
  await everyoneOn("current");
  const row = control.locator("#log tr", { hasText: "there is no flag data" }).first();
  assert.equal(await row.locator("td").nth(6).textContent(), "none", "no data has no source");
  await row.locator("td", { hasText: /cold.*starting, with flag data.*deciding$/ }).waitFor();
  await control.getByLabel("Answers", { exact: true }).check();
  await preview.until(() => preview.state.fault === "none");
  await person.visitUntilRecovered();
  await everyoneOn("new");
  assert.equal(await control.locator("#behind").textContent(), "");
});

for (const [label, fault] of [["Answers after 2 s", "slow"], ["Rejects the key", "rejected"]]) {
  test(`LaunchDarkly fails (${fault}): older data decides`, async () => {
    await visitUntilFresh("/");
    const before = where();
    await control.getByLabel(label).check();
    await preview.until(() => preview.state.fault === fault);
    await control.getByRole("button", { name: "Freeze it for 10 minutes" }).click();
    await preview.until(() => preview.state.environment.state === "frozen");
    const decision = await preview.decision((await visit("/")).first);
    assert.equal(decision.data, "older");
    assert.ok(decision.data_age_ms >= 600_000, `${decision.data_age_ms} ms`);
    if (fault === "slow") {
      const budget = preview.state.viewer_budget_ms * 1000;
      assert.ok(decision.waited_us >= budget && decision.duration_us >= decision.waited_us, JSON.stringify(decision));
      await control.locator("#log td", { hasText: /ms waiting for flag data\d+\.\d ms deciding$/ }).first().waitFor();
    }
    assert.equal(where(), before);
    await control.getByLabel("Answers", { exact: true }).check();
    await preview.until(() => preview.state.fault === "none");
    // After a rejected key the function waits before it tries again; a new environment tries at once.
    await control.getByRole("button", { name: "Kill it" }).click();
    await preview.until(() => preview.state.environment.state === "none");
    await visitUntilFresh("/");
  });
}

test("an environment that was frozen for ten minutes asks before it answers", async () => {
  await visitUntilFresh("/");
  await drag("End", 100);
  await control.getByRole("button", { name: "Freeze it for 10 minutes" }).click();
  await preview.until(() => preview.state.environment.state === "frozen");
  const decision = await preview.decision((await visit("/")).first);
  assert.equal(decision.data, "fresh");
  assert.ok(isNew(), "the first visit after the freeze sees the flag as it is");
});

test("200 quick visits leave no error in the console", async () => {
  const addresses = await (await page.request.get(`${preview.url}/__preview/viewers`)).json();
  for (let visits = 0; visits < 200; visits += 1) {
    if (visits % 20 === 0) await visitAs(addresses[visits * 5]);
    await page.goto(preview.url, { waitUntil: "commit" });
  }
  await page.waitForLoadState();
  await picturesAreLoaded();
});

test("a page that is not there is a 404 page", async () => {
  page.removeAllListeners("console");
  for (const path of ["/nothing/here.html", "/site/nothing/", "/site/beta/nothing.svg", "/site/logo.svg/"]) {
    const response = await page.goto(preview.url + path);
    assert.equal(response.status(), 404, path);
    assert.equal(await page.locator("h1").textContent(), "You have come off the road");
  }
  await hasNoViolation(page, "the 404 page");
});

test("the control page has its address with a slash too", async () => {
  await page.goto(`${preview.url}/__preview/`);
  await page.locator("#percent").filter({ hasText: /\d/ }).waitFor();
  assert.equal(where(), "/__preview/");
});

test("on a phone no column of the log is below the scroll bar", async () => {
  await control.setViewportSize({ width: 390, height: 844 });
  for (let visits = 0; visits < 8; visits += 1) await visit("/about.html?campaign=a-rather-long-name&source=newsletter");
  const found = await control.locator(".scroll").evaluate((scroll) => {
    const right = scroll.getBoundingClientRect().right;
    const cells = [...scroll.querySelectorAll("tbody tr:not(.quiet) td")].map((cell) => cell.getBoundingClientRect().right);
    return {
      isScrolled: scroll.scrollHeight > scroll.clientHeight,
      sideways: scroll.scrollWidth - scroll.clientWidth,
      room: right - Math.max(...cells),
    };
  });
  assert.ok(found.isScrolled, "the log is long enough to scroll");
  assert.equal(found.sideways, 0);
  assert.ok(found.room >= 15, `${found.room} px beside the last column`);
});

test("Ctrl-C ends `just preview` without an error", () => {
  const arguments_ = [fileURLToPath(new URL("interrupt.py", import.meta.url)), "Ctrl-C ends the preview.",
    "tools/just", "preview", "--no-open", "--port", "0"];
  const { status, stdout, stderr } = spawnSync("python3", arguments_, { cwd: repository, encoding: "utf8" });
  assert.deepEqual({ status, stdout: stdout.trim(), stderr }, { status: 0, stdout: "^C", stderr: "" });
});

test("axe finds no violation, on a desktop and on a phone", async () => {
  await setFlag({ on: true, new_site_percent: 30, targets: [{ key: "203.0.113.7", sees_new_site: true }] });
  await control.getByRole("button", { name: "Remove 203.0.113.7" }).waitFor();
  for (const [device, viewport] of [["desktop", { width: 1360, height: 900 }], ["phone", { width: 390, height: 844 }]]) {
    await control.setViewportSize(viewport);
    await hasNoViolation(control, `the control page on a ${device}`);
    assert.deepEqual(await tooWide(control), [], `the control page scrolls sideways on a ${device}`);
    await control.screenshot({ path: `${screenshots}control-${device}.png`, fullPage: true });
    await page.setViewportSize(viewport);
    for (const [name, path] of [["current", "/site/index.html"], ["current-about", "/site/about.html"]]) {
      await visit(path);
      await hasNoViolation(page, `${path} on a ${device}`);
      await page.screenshot({ path: `${screenshots}${name}-${device}.png`, fullPage: true });
    }
  }
});

test("axe finds no violation on the new site", async () => {
  await drag("End", 100);
  await visitUntilFresh("/");
  for (const [device, viewport] of [["desktop", { width: 1360, height: 900 }], ["phone", { width: 390, height: 844 }]]) {
    await page.setViewportSize(viewport);
    for (const [name, path] of [["new", "/"], ["new-about", "/about.html"]]) {
      await visit(path);
      assert.ok(isNew(), where());
      await hasNoViolation(page, `${path} on a ${device}`);
      await page.screenshot({ path: `${screenshots}${name}-${device}.png`, fullPage: true });
    }
  }
});
