/* Python in a worker of its own: the page stays usable, and a recipe without an end can be stopped.
 *
 * The page (recipes.js) sends {kind: "begin", python} once, then {kind: "run", source, bench, budget}. Answers are
 * {kind: "ready"}, {kind: "done", found} with what run_recipe.py returns, and {kind: "failed", message}.
 */
"use strict";

const HERE = new URL("./", self.location).href;
const HOME = "/home/pyodide/";
const FILES = ["radin_lite.py", "page_bench.py", "run_recipe.py"];
let pyodide;
let runner;

async function fetchBytes(name) {
  const response = await fetch(HERE + name);
  if (!response.ok) throw new Error(`${name} could not be loaded (${response.status})`);
  return new Uint8Array(await response.arrayBuffer());
}

async function begin(python) {
  importScripts(`${python}pyodide.js`);
  pyodide = await self.loadPyodide({ indexURL: python });
  await pyodide.loadPackage("numpy", { messageCallback: () => {}, errorCallback: () => {} });
  for (const name of FILES) pyodide.FS.writeFile(HOME + name, await fetchBytes(name));
  runner = pyodide.pyimport("run_recipe");
  return { kind: "ready" };
}

async function run({ source, bench, budget }) {
  const path = `${HOME}${bench}.npz`;
  if (!pyodide.FS.analyzePath(path).exists) pyodide.FS.writeFile(path, await fetchBytes(`${bench}.npz`));
  return { kind: "done", found: JSON.parse(runner.run_as_json(source, path, budget)) };
}

self.onmessage = async ({ data }) => {
  try {
    self.postMessage(data.kind === "begin" ? await begin(data.python) : await run(data));
  } catch (error) {
    self.postMessage({ kind: "failed", message: String(error.message ?? error) });
  }
};
