// Sites that keep their addresses, visitors who are known by a cookie, and preview links, in Chromium.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { Person, hasNoViolation, launched } from "./chromium.mjs";
import { Preview } from "./preview.mjs";

let browser;
let preview;

before(async () => { browser = await launched(); });
after(() => browser?.close());

function withSettings(variables) {
  before(async () => { preview = await Preview.start(variables); });
  after(async () => assert.equal(await preview?.stop(), 0));
}

// A person does this, with the flag on for half of the visitors.
function they(name, act) {
  test(name, async () => {
    const person = await Person.arrives(browser, preview);
    await flagIs(person, {});
    await act(person);
    await person.leaves();
  });
}

// Sets the flag, for an environment that has not seen it before.
async function flagIs(person, { on = true, percent = 50 }) {
  await person.setFlag({ on, new_site_percent: percent, targets: [] });
  await person.control("POST", "environment/kill");
}

async function cookieOf(person, name) {
  return (await person.context.cookies(preview.url)).find((cookie) => cookie.name === name);
}

async function controlOf(person) {
  const control = await person.opened("/__preview");
  await control.frameLocator("#site").locator("h1").waitFor();
  return control;
}

describe("with a visitor cookie and a preview link", () => {
  const token = randomBytes(16).toString("hex");
  withSettings({ REDIRECT_VISITOR_COOKIE: "visitor", REDIRECT_CONTEXT_HEADERS: "user-agent", REDIRECT_PREVIEW_TOKEN: token });

  they("keep their site when their address changes, and while the share grows", async (someone) => {
    const people = {};
    while (!people.true || !people.false) {
      const person = await Person.arrives(browser, preview);
      await person.visit("/");
      if (people[person.isNew()]) await person.leaves();
      else people[person.isNew()] = person;
    }
    for (const [isNew, person] of Object.entries(people)) {
      const { value, secure, httpOnly } = await cookieOf(person, "visitor");
      assert.match(value, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
      assert.deepEqual({ secure, httpOnly }, { secure: true, httpOnly: false });
      for (let host = 1; host <= 10; host += 1) {
        await person.context.addCookies([{ name: "preview_viewer", value: `198.51.100.${host}`, url: preview.url }]);
        await person.visit("/about.html");
        assert.equal(String(person.isNew()), isNew, `from address ${host}`);
      }
      assert.equal((await cookieOf(person, "visitor")).value, value);
    }
    const shares = [];
    for (const percent of [60, 80, 100]) {
      await flagIs(someone, { percent });
      for (const person of Object.values(people)) await person.visit("/");
      assert.ok(people.true.isNew(), `still at ${percent} %`);
      shares.push(people.false.isNew());
    }
    assert.deepEqual(shares, shares.toSorted(), "they move once");
    assert.ok(shares.at(-1));
    await Promise.all(Object.values(people).map((person) => person.leaves()));
  });

  they("are somebody new when they are forgotten, and anybody of the picture", async (person) => {
    const control = await controlOf(person);
    const field = await control.getByLabel("Visit as this id, the value of the cookie visitor").elementHandle();
    const known = async () => (await cookieOf(person, "visitor"))?.value;
    // What the control page shows, once that is somebody else.
    const shown = (before) => control.waitForFunction(([field, before]) => field.value !== before && field.value, [field, before]);
    const first = await known();
    assert.equal(await (await shown("")).jsonValue(), first);
    await control.getByRole("button", { name: "Change your address" }).click();
    const row = control.locator("#log tr:not(.quiet)", { hasText: "203.0.113." }).first();
    await row.locator("small", { hasText: first.slice(0, 12) }).waitFor();
    assert.equal(await known(), first);
    await control.getByRole("button", { name: "Forget me" }).click();
    let id = await (await shown(first)).jsonValue();
    assert.equal(await known(), id);
    await control.locator("#log small", { hasText: "sets visitor" }).first().waitFor();

    for (const [name, index] of [["new", "1"], ["current", "0"]]) {
      await control.getByRole("button", { name: `Someone on the ${name} site` }).click();
      id = await (await shown(id)).jsonValue();
      assert.equal(await known(), id);
      assert.match(id, /^visitor-\d+$/);
      await control.locator("#dots i.you").waitFor();
      assert.equal(preview.state.population.sees[id.split("-")[1] - 1], index);
      await person.visit("/");
      assert.equal(person.isNew(), name === "new");
    }
    await hasNoViolation(control, "the control page");
  });

  they("see beta by a preview link, until they end it, and the token is nowhere", async (person) => {
    await flagIs(person, { on: false });
    await person.visit("/");
    assert.equal(person.where(), "/site/index.html");
    const { first, redirects } = await person.visit(`/about.html?a=b&redirect-preview=${token}`);
    assert.deepEqual([person.where(), redirects], ["/site/beta/about.html?a=b", 1]);
    assert.equal((await preview.decision(first)).reason, "PREVIEW");
    const { httpOnly, secure, expires } = await cookieOf(person, "redirect-preview");
    assert.deepEqual({ httpOnly, secure, expires }, { httpOnly: true, secure: true, expires: -1 }, "a session's");
    await person.follow(/^Home/);
    await person.follow(/^About/);
    await person.visit("/");
    assert.equal(person.where(), "/site/beta/index.html");
    await person.visit("/site/beta/about.html?redirect-preview=off");
    assert.equal(person.where(), "/site/about.html");
    assert.equal(await cookieOf(person, "redirect-preview"), undefined);
    await person.visit("/");
    assert.equal(person.where(), "/site/index.html");

    for (const wrong of [`redirect-preview=${token}x`, `redirect-preview=${token}&redirect-preview=${token}`]) {
      await person.visit(`/?${wrong}`);
      assert.equal(person.where(), `/site/index.html?${wrong}`);
    }
    assert.match(preview.received, /redirect-preview=TOKEN/);
    assert.ok(!preview.received.includes(token), "the log has the token");
  });

  they("follow the preview link of the control page, also where there is no flag data", async (person) => {
    await flagIs(person, { percent: 0 });
    const control = await controlOf(person);
    const frameIs = (path) => control.locator("#seen-path").filter({ hasText: path }).waitFor();
    await frameIs("/site/index.html");
    await control.getByLabel("Rejects the key").check();
    await preview.until(() => preview.state.fault === "rejected");
    await person.control("POST", "environment/kill");
    await control.getByRole("button", { name: "Open the preview link" }).click();
    await frameIs("/site/beta/index.html");
    await person.visit("/about.html");
    assert.ok(person.isNew());
    assert.ok(!(await control.content()).includes(token), "the page has the token");
    await control.getByRole("button", { name: "End the preview" }).click();
    await frameIs("/site/index.html");
    await control.getByRole("button", { name: "Open the preview link" }).click();
    await frameIs("/site/beta/index.html");
    await control.getByRole("button", { name: "Forget me" }).click();
    await frameIs("/site/index.html");
    assert.equal(await cookieOf(person, "redirect-preview"), undefined);
    await control.getByLabel("Answers", { exact: true }).check();
    await preview.until(() => preview.state.fault === "none");
  });
});

describe("a site that keeps its addresses", () => {
  withSettings({ REDIRECT_CURRENT_PATH: "/", REDIRECT_BETA_PATH: "/beta" });

  for (const flag of [{ percent: 0 }, { on: false }]) {
    they(`is as it was with ${JSON.stringify(flag)}`, async (person) => {
      await flagIs(person, flag);
      for (const path of ["/", "/index.html", "/about.html?from=a%20letter&x=1&x=2"]) {
        const { redirects } = await person.visit(path);
        assert.deepEqual([person.where(), redirects], [path, 0]);
        await person.picturesAreLoaded();
      }
      for (const [path, home] of [["/beta/about.html?x=1", "/about.html?x=1"], ["/beta/", "/"], ["/beta", "/"]]) {
        const { redirects } = await person.visit(path);
        assert.deepEqual([person.where(), redirects], [home, 1]);
      }
    });
  }

  they("leads everyone to beta at 100 %, deep links and back button included", async (person) => {
    await flagIs(person, { percent: 100 });
    const { redirects } = await person.visit("/");
    assert.deepEqual([person.where(), redirects], ["/beta/index.html", 1]);
    await person.picturesAreLoaded();
    await person.follow(/^About/);
    assert.equal(person.where(), "/beta/about.html");
    await person.page.goBack();
    assert.equal(person.where(), "/beta/index.html");
    await person.page.goBack();
    assert.equal(person.page.url(), "about:blank");
    await person.page.goForward();
    assert.equal(person.where(), "/beta/index.html");
    await person.visit("/about.html?from=a%20letter&x=1&x=2");
    assert.equal(person.where(), "/beta/about.html?from=a%20letter&x=1&x=2");
    const asset = await person.context.request.get(`${preview.url}/logo.svg`, { maxRedirects: 0 });
    assert.equal(asset.status(), 200, "an asset of the current site");
  });

  they("takes whoever is on beta home when the flag is switched off, and keeps them there", async (person) => {
    await flagIs(person, { percent: 100 });
    await person.visit("/about.html");
    await person.setFlag({ on: false, new_site_percent: 100, targets: [] });
    await person.followHome();
    const home = person.where();
    assert.match(home, /^\/(index|about)\.html$/);
    await person.picturesAreLoaded();
    const { httpOnly, secure } = await cookieOf(person, "redirect-guard");
    assert.deepEqual({ httpOnly, secure }, { httpOnly: true, secure: true });
    // Back is a page of beta, perhaps of the browser's own cache; a link there leads home again.
    await person.page.goBack();
    await person.followHome();

    await flagIs(person, { percent: 100 });
    const { first, redirects } = await person.visit("/");
    assert.deepEqual([person.where(), redirects], ["/", 0], "the guard cookie");
    assert.equal(first.headers()["x-cache"], "Miss from cloudfront");
    const control = await controlOf(person);
    await control.getByRole("button", { name: "Forget me" }).click();
    await control.locator("#seen-path").filter({ hasText: "/beta/index.html" }).waitFor();
    assert.equal(await cookieOf(person, "redirect-guard"), undefined);
    await control.locator("#log small", { hasText: "sets redirect-guard" }).first().waitFor();
  });

  they("shows in the control page's frame what a tab shows", async (person) => {
    const control = await controlOf(person);
    for (const [name, path] of [["new", /^\/beta\/index\.html$/], ["current", /^\/$/]]) {
      await control.getByRole("button", { name: `Someone on the ${name} site` }).click();
      await control.locator("#seen-path").filter({ hasText: path }).waitFor();
      await person.visit("/about.html");
      assert.equal(person.where(), name === "new" ? "/beta/about.html" : "/about.html");
    }
  });

  they("has a 404 page at every depth", async (person) => {
    await flagIs(person, { percent: 0 });
    person.page.removeAllListeners("console");
    for (const path of ["/nothing/here.html", "/beta/nothing.svg"]) {
      const response = await person.page.goto(preview.url + path);
      assert.equal(response.status(), 404, path);
      await person.page.getByRole("link", { name: "Go to the front page" }).click();
      await person.page.waitForURL(`${preview.url}/`);
    }
  });
});
