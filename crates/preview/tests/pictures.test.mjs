// Every picture of the documentation, in Chromium. Needs chromium on the PATH.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";

const DOCS = fileURLToPath(new URL("../../../docs/", import.meta.url));

const pictures = readdirSync(DOCS).filter((name) => /\.(svg|png)$/.test(name));

let browser;
let page;

before(async () => {
  browser = await chromium.launch({
    executablePath: execFileSync("sh", ["-c", "command -v chromium"], { encoding: "utf8" }).trim(),
    // A container's root may have no sandbox.
    args: ["--no-sandbox", "--disable-gpu"],
  });
  page = await browser.newPage();
});

after(() => browser?.close());

// Opens an SVG as a document of its own, at the size of its viewBox, and lists what is wrong with its texts.
async function faultsOf(url) {
  await page.goto(url);
  return page.evaluate(() => {
    // Fonts differ between machines by less.
    const TOLERANCE = 2;
    const root = document.querySelector("svg:root");
    if (!root || document.querySelector("parsererror")) return ["it is not an SVG document"];
    const { width, height } = root.viewBox.baseVal;
    if (!width || !height) return ["it has no viewBox"];
    root.setAttribute("width", width);
    root.setAttribute("height", height);

    const boxOf = (element) => {
      const { left, top, right, bottom } = element.getBoundingClientRect();
      return { left, top, right, bottom, text: element.textContent.trim() };
    };
    const holds = (outer, inner) =>
      inner.left >= outer.left - TOLERANCE && inner.right <= outer.right + TOLERANCE &&
      inner.top >= outer.top - TOLERANCE && inner.bottom <= outer.bottom + TOLERANCE;
    const overlap = (one, other) =>
      Math.min(one.right, other.right) - Math.max(one.left, other.left) > TOLERANCE &&
      Math.min(one.bottom, other.bottom) - Math.max(one.top, other.top) > 2 * TOLERANCE;

    const canvas = boxOf(root);
    const rects = [...root.querySelectorAll("rect")].map(boxOf);
    const texts = [...root.querySelectorAll("text")].map(boxOf).filter((box) => box.text);
    const faults = [];
    texts.forEach((text, index) => {
      if (!holds(canvas, text)) faults.push(`"${text.text}" is outside the canvas`);
      const crossed = rects.some((rect) => overlap(rect, text) && !holds(rect, text));
      if (crossed) faults.push(`"${text.text}" crosses the edge of a box`);
      const other = texts.slice(0, index).find((before) => overlap(before, text));
      if (other) faults.push(`"${text.text}" lies over "${other.text}"`);
    });
    if (texts.length === 0) faults.push("it has no text");
    return faults;
  });
}

for (const name of pictures.filter((name) => name.endsWith(".svg"))) {
  test(`${name}: each text is inside the canvas and its box`, async () => {
    assert.deepEqual(await faultsOf(pathToFileURL(join(DOCS, name)).href), []);
  });
}

for (const name of pictures.filter((name) => name.endsWith(".png"))) {
  test(`${name}: it is a picture of more than one color`, async () => {
    const data = readFileSync(join(DOCS, name)).toString("base64");
    const colors = await page.evaluate(async (source) => {
      const image = new Image();
      image.src = source;
      await image.decode();
      const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      const pixels = new Uint32Array(context.getImageData(0, 0, canvas.width, canvas.height).data.buffer);
      return new Set(pixels).size;
    }, `data:image/png;base64,${data}`);
    assert.ok(colors > 16, `${colors} colors`);
  });
}

for (const [fault, body] of [
  ['"no network while the viewer waits" crosses the edge of a box', '<rect x="10" y="10" width="90" height="40"/><text x="14" y="32">no network while the viewer waits</text>'],
  ['"no network while the viewer waits" crosses the edge of a box', '<rect x="150" y="10" width="90" height="40"/><text x="195" y="32" text-anchor="middle">no network while the viewer waits</text>'],
  ['"no network while the viewer waits" is outside the canvas', '<text x="300" y="32">no network while the viewer waits</text>'],
  ['"and not heard" lies over "told twice"', '<text x="10" y="32">told twice</text><text x="30" y="34">and not heard</text>'],
  ["it is not an SVG document", "<text>unclosed"],
]) {
  test(`a picture with this fault is found: ${fault}`, async () => {
    const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 80">${body}</svg>`;
    assert.deepEqual(await faultsOf(`data:image/svg+xml,${encodeURIComponent(svg)}`), [fault]);
  });
}
