"use strict";
// text-tools: the request is the first argument, or standard input where there is none;
// the answer is one line of JSON: {"result": ...}, or {"error": ...} and exit status 1.

const fs = require("node:fs");

const { unifiedDiff } = require("./diff.js");
const { slugify, wordCount } = require("./words.js");

const METHODS = {
  word_count: ({ text, file, language = "en", top = 10 }) => {
    if ((text === undefined) === (file === undefined)) throw new Error("give either a text or a file");
    return wordCount(text ?? fs.readFileSync(file, "utf8"), language, top);
  },
  slugify: ({ text, separator = "-", max_length: maxLength = 80 }) =>
    slugify(required("text", text), separator, maxLength),
  diff: ({ before, after, context = 3, before_name: beforeName = "before", after_name: afterName = "after" }) =>
    unifiedDiff(required("before", before), required("after", after), { context, beforeName, afterName }),
};

function required(name, value) {
  if (typeof value !== "string") throw new Error(`${name} is missing, or not a text`);
  return value;
}

function main() {
  const request = JSON.parse(process.argv[2] ?? fs.readFileSync(0, "utf8"));
  if (!Object.hasOwn(METHODS, request?.method ?? "")) throw new Error(`Unknown method: ${request?.method}`);
  const given = Object.entries(request.parameters ?? {}).filter(([, value]) => value !== null);
  return METHODS[request.method](Object.fromEntries(given));
}

let answer;
try {
  answer = { result: main() };
} catch (error) {
  answer = { error: error.message };
  process.exitCode = 1;
}
console.log(JSON.stringify(answer));
