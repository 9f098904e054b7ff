// A browser, and what a person does in it. Needs chromium on the PATH.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");

// More visits than any change needs to reach a visitor.
const MANY = 300;

export function launched() {
  return chromium.launch({
    executablePath: execFileSync("sh", ["-c", "command -v chromium"], { encoding: "utf8" }).trim(),
    // Nothing but this machine is asked, and a container's root may have no sandbox.
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
}

export async function hasNoViolation(tab, name) {
  await tab.addScriptTag({ path: axe });
  // The site in the control page's frame is checked by itself.
  const { violations } = await tab.evaluate(() => globalThis.axe.run(document, { iframes: false }));
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" | ")}`);
  assert.deepEqual(found, [], name);
}

// Somebody with a browser of their own: no cookie, an empty cache.
export class Person {
  // What the console had to complain about.
  problems = [];

  static async arrives(browser, preview) {
    const context = await browser.newContext({ viewport: { width: 1360, height: 900 }, reducedMotion: "reduce" });
    const person = new Person(preview, context);
    person.page = await person.opened();
    return person;
  }

  constructor(preview, context) {
    this.preview = preview;
    this.context = context;
  }

  async opened(path) {
    const tab = await this.context.newPage();
    tab.on("console", (message) => { if (message.type() === "error") this.problems.push(message.text()); });
    tab.on("pageerror", (error) => this.problems.push(error.message));
    if (path) await tab.goto(this.preview.url + path);
    return tab;
  }

  async control(method, path, data) {
    const response = await this.context.request.fetch(`${this.preview.url}/__preview/${path}`, { method, data });
    assert.equal(response.status(), 204, path);
  }

  setFlag(flag) {
    return this.control("PUT", "flag", flag);
  }

  // Goes to a path and gives the first of the responses, which the function decided, and the number of redirects.
  async visit(path) {
    const response = await this.page.goto(this.preview.url + path);
    let request = response.request();
    let redirects = 0;
    for (; request.redirectedFrom(); redirects += 1) request = request.redirectedFrom();
    assert.ok(redirects <= 2, `${path}: ${redirects} redirects`);
    assert.equal(response.status(), 200, this.page.url());
    return { first: await request.response(), redirects };
  }

  where() {
    const { pathname, search } = new URL(this.page.url());
    return pathname + search;
  }

  isNew() {
    return this.where().startsWith(`${this.preview.state.beta_path}/`);
  }

  // Visits until the function decides from the flag as it is now; until then it may decide from data that is fresh enough.
  async visitUntilFresh(path) {
    const { version } = this.preview.state.flag;
    const window = this.preview.state.max_staleness_seconds * 1000;
    for (let visits = 0; visits < MANY; visits += 1) {
      const decision = await this.preview.decision((await this.visit(path)).first);
      assert.equal(decision.data, "fresh");
      assert.ok(decision.data_age_ms <= window, `the data is ${decision.data_age_ms} ms old`);
      if (decision.flag_version === version) return;
    }
    assert.fail(`version ${version} did not arrive in ${MANY} visits`);
  }

  // Visits until the function has fetched flag data again: after a failure it waits before it tries.
  async visitUntilRecovered() {
    let data;
    for (let visits = 0; data !== "fresh" && visits < MANY; visits += 1) {
      ({ data } = await this.preview.decision((await this.visit("/")).first));
    }
    assert.equal(data, "fresh", "the function recovers");
  }

  // Follows a link of the page's navigation.
  async follow(name) {
    const loaded = this.page.waitForEvent("load");
    await this.page.getByRole("navigation").getByRole("link", { name }).click();
    await loaded;
  }

  // Follows links to and fro until the page is one of the current site.
  async followHome() {
    for (let clicks = 0; this.isNew() && clicks < MANY; clicks += 1) {
      await this.follow(this.where().includes("about") ? /^Home/ : /^About/);
    }
    assert.ok(!this.isNew(), this.where());
  }

  async picturesAreLoaded() {
    const broken = await this.page.$$eval("img", (images) => images.filter((image) => !image.naturalWidth).map((image) => image.src));
    assert.deepEqual(broken, []);
    assert.ok(await this.page.locator("img").count() >= 1);
  }

  async leaves() {
    await this.context.close();
    assert.deepEqual(this.problems, [], "the browser's console has errors");
  }
}
