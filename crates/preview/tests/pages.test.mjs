// The pages of the documentation: what they link to is there, and the front page stays one that is read.

import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "node:test";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const DOCS = join(ROOT, "docs");

const files = readdirSync(DOCS);
const pages = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map((name) => join(ROOT, name))
  .concat(files.filter((name) => name.endsWith(".md")).map((name) => join(DOCS, name)));

const withoutCode = (text) => text.replace(/```.*?```/gs, "");
const read = (page) => withoutCode(readFileSync(page, "utf8"));

// As GitHub makes the anchor of a heading.
const anchorOf = (heading) => heading.replace(/[`*]/g, "").toLowerCase().replace(/[^\p{L}\p{N}_\- ]/gu, "").replaceAll(" ", "-");
const anchorsOf = (page) => [...read(page).matchAll(/^#+ (.*)$/gm)].map(([, heading]) => anchorOf(heading));

const linksOf = (page) =>
  [...read(page).matchAll(/\]\(([^)\s]+)\)/g)].map(([, link]) => link).filter((link) => !/^https?:/.test(link));

function faultOf(page, link) {
  const [path, anchor] = link.split("#");
  const target = path ? resolve(dirname(page), path) : page;
  if (!existsSync(target)) return `${link}: there is no such file`;
  if (anchor && !anchorsOf(target).includes(anchor)) return `${link}: the page has no such heading`;
  return null;
}

test("every link leads to a file, and to a heading of it", () => {
  const links = pages.flatMap((page) => linksOf(page).map((link) => [page, link]));
  assert.ok(links.length > 50, `${links.length} links`);
  const faults = links.map(([page, link]) => [page, faultOf(page, link)]).filter(([, fault]) => fault);
  assert.deepEqual(faults, []);
});

test("the index lists every page, and pages show every picture", () => {
  const listed = linksOf(join(DOCS, "README.md"));
  const shown = pages.flatMap((page) => linksOf(page).map((link) => resolve(dirname(page), link)));
  for (const name of files.filter((name) => name !== "README.md")) {
    if (name.endsWith(".md")) assert.ok(listed.includes(name), `docs/README.md does not list ${name}`);
    else assert.ok(shown.includes(join(DOCS, name)), `no page shows ${name}`);
  }
});

test("the README has at most 1,200 words", () => {
  const words = readFileSync(join(ROOT, "README.md"), "utf8").split(/\s+/).filter(Boolean).length;
  assert.ok(words <= 1_200, `${words} words`);
});
