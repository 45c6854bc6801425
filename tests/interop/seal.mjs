// Reads a job from each line of stdin, and says on a line of stdout what it has written.
//
//   {"how": "sealed", "from": …, "to": …, "body": …, "seed": …, "box": the recipient's}    id and file
//   {"how": "signed", "from": …, "to": …, "body": …, "seed": …}                            id and file
//
// Files and keys are in base64.

import { createInterface } from "node:readline";
import { compose } from "./envelope.mjs";
import { read } from "./json.mjs";
import { seal, sign } from "./mail.mjs";

const raw = (text) => new Uint8Array(Buffer.from(text, "base64"));

for await (const line of createInterface({ input: process.stdin })) {
  const job = read(Buffer.from(line)); // which keeps the numbers in the body as they are
  const members = compose(job.get("from"), job.get("to"), job.get("body"));
  const seed = raw(job.get("seed"));
  const file = job.get("how") === "sealed" ? seal(members, raw(job.get("box")), seed) : sign(members, seed);
  console.log(JSON.stringify({ id: members.get("id"), file: file.toString("base64") }));
}
