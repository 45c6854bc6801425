// Reads a job from each line of stdin, and says on a line of stdout what came of it.
//
//   {"how": "sealed", "file": …, "to": …, "boxes": [secret …], "pins": {name: identity …}}    members, or refused
//   {"how": "signed", "file": …, "to": …, "pins": {name: identity …}}                         members, or refused
//   {"how": "identities" or "boxes", "key": …}                                                ok
//
// Files and keys are in base64.

import { createInterface } from "node:readline";
import nacl from "tweetnacl";
import { Refused, write } from "./json.mjs";
import { isBox, isIdentity, kid, open, verified } from "./mail.mjs";

const raw = (text) => new Uint8Array(Buffer.from(text, "base64"));

function done(job) {
  if (job.how === "identities") return new Map([["ok", isIdentity(raw(job.key))]]);
  if (job.how === "boxes") return new Map([["ok", isBox(raw(job.key))]]);
  const file = Buffer.from(job.file, "base64");
  const pins = new Map(Object.entries(job.pins).map(([name, key]) => [name, raw(key)]));
  try {
    if (job.how === "signed") return new Map([["members", verified(file, job.to, pins)]]);
    const pairs = job.boxes.map((secret) => nacl.box.keyPair.fromSecretKey(raw(secret)));
    const boxes = new Map(pairs.map((pair) => [kid(pair.publicKey), pair]));
    return new Map([["members", open(file, job.to, boxes, pins)]]);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return new Map([["refused", error.word]]);
  }
}

for await (const line of createInterface({ input: process.stdin })) console.log(write(done(JSON.parse(line))));
