// Takes docs/preview.png again: `node crates/preview/tests/picture.mjs`, with the binaries of
// `cargo build --package redirect --package preview` and chromium on the PATH.

import { Person, launched } from "./chromium.mjs";
import { Preview, repository } from "./preview.mjs";

const [preview, browser] = await Promise.all([Preview.start(), launched()]);
const person = await Person.arrives(browser, preview);
const control = await person.opened("/__preview");
await control.setViewportSize({ width: 1280, height: 1880 });
await control.locator("#share").focus();
for (let percent = 51; percent <= 70; percent += 1) {
  await control.keyboard.press("ArrowRight");
  await preview.until(() => preview.state.flag.new_site_percent === percent);
}
await person.visitUntilFresh("/");
for (const name of ["Someone on the current site", "Someone on the new site"]) {
  await control.getByRole("button", { name }).click();
  await control.locator("#seen-path").filter({ hasText: name.includes("new") ? "/site/beta/" : "/site/index" }).waitFor();
}
await control.screenshot({ path: `${repository}docs/preview.png` });
await browser.close();
await preview.stop();
