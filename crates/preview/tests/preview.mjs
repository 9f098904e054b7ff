// A running preview, and the news that it sends to its control page.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const repository = fileURLToPath(new URL("../../..", import.meta.url));

// Longer than anything here takes; only a failing test waits for it.
const PATIENCE_MS = 30_000;

export class Preview {
  // Starts the binaries of `cargo build --package redirect --package preview` on a free port.
  // `variables` are added to the environment.
  static async start(variables = {}) {
    const child = spawn("target/debug/preview", ["--no-open", "--port", "0"], {
      cwd: repository,
      env: { ...process.env, ...variables },
      stdio: ["ignore", "pipe", "inherit"],
    });
    for await (const line of createInterface({ input: child.stdout })) {
      const [, url] = line.match(/^The site: +(\S+)\/$/) ?? [];
      if (url) {
        const preview = new Preview(child, url);
        await preview.#listen();
        return preview;
      }
    }
    throw new Error("the preview ended before it printed its address");
  }

  #child;
  #connection = new AbortController();
  #waiting = new Set();
  url;
  // All of the news, as text.
  received = "";
  state;
  entries = new Map();

  constructor(child, url) {
    this.#child = child;
    this.url = url;
  }

  // Follows the server-sent events; resolves when the first state is there.
  async #listen() {
    const response = await fetch(`${this.url}/__preview/news`, { signal: this.#connection.signal });
    const read = async () => {
      let text = "";
      for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
        text += chunk;
        this.received += chunk;
        for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
          this.#take(text.slice(0, end));
          text = text.slice(end + 2);
        }
      }
    };
    read().catch((error) => {
      if (error.name !== "AbortError") throw error;
    });
    await this.until(() => this.state);
  }

  #take(event) {
    const fields = Object.fromEntries(event.split("\n").map((line) => line.split(/: ?(.*)/s)));
    if (fields.event === "state") this.state = JSON.parse(fields.data);
    if (fields.event === "entry") {
      const entry = JSON.parse(fields.data);
      // A request and its decision are two entries with one id.
      this.entries.set(entry.id, { ...this.entries.get(entry.id), ...entry });
    }
    for (const check of this.#waiting) check();
  }

  // Waits until `condition` gives something, which is looked at whenever there is news.
  until(condition) {
    return new Promise((resolve, reject) => {
      const patience = setTimeout(() => reject(new Error(`not so: ${condition}`)), PATIENCE_MS);
      const check = () => {
        const found = condition();
        if (!found) return;
        this.#waiting.delete(check);
        clearTimeout(patience);
        resolve(found);
      };
      this.#waiting.add(check);
      check();
    });
  }

  // The log's entry of a response, with the function's decision.
  decision(response) {
    const id = response.headers()["x-amz-cf-id"];
    return this.until(() => this.entries.get(id)?.decision);
  }

  async stop() {
    this.#connection.abort();
    const ended = once(this.#child, "exit");
    this.#child.kill("SIGINT");
    const [code] = await ended;
    return code;
  }
}
