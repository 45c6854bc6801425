// The envelope: FORMAT.md, "Names", "The envelope".

import { randomBytes } from "node:crypto";
import { Refused, read } from "./json.mjs";

const TEXTS = ["id", "from", "to", "sent", "type", "subject", "thread", "in_reply_to", "idempotency_key"];
const TIMES = ["expires", "deliver_after"];
const TIME =
  /^(\d{4})-(\d\d)-(\d\d)[Tt ]([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(?:\.\d+)?(?:[Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)$/;
const ID =
  /^(?:19[7-9]\d|[2-9]\d{3})(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])T(?:[01]\d|2[0-3])[0-5]\d[0-5]\d\.\d{9}Z-[0-9a-f]{12}$/;
const ADDRESS = /^[a-z0-9][a-z0-9._-]{0,63}$/;

export const isId = (text) => ID.test(text);
export const isAddress = (text) => ADDRESS.test(text) && text !== "all";

// The members of a message, read strictly.
export function message(bytes) {
  const members = read(bytes);
  if (!(members instanceof Map)) throw new Refused("message", "not an object");
  if (members.has("body") || members.get("sealed") instanceof Map) check(members);
  return members;
}

function check(members) {
  const given = (name, is) => {
    const value = members.get(name) ?? null;
    if (value !== null && !is(value)) throw new Refused("message", `its ${name} is of another type`);
  };
  const isText = (value) => typeof value === "string";
  for (const name of TEXTS) given(name, isText);
  for (const name of TIMES) given(name, (value) => isText(value) && isTime(value));
  given("hops", (value) => typeof value === "bigint" && value >= 0n && value <= 1000n);
  given("headers", (value) => value instanceof Map && [...value.values()].every(isText));
}

function isTime(text) {
  const found = TIME.exec(text);
  if (found === null) return false;
  const [year, month, day] = found.slice(1, 4).map(Number);
  const date = new Date(0);
  date.setUTCFullYear(year, month - 1, day);
  return year >= 1 && date.getUTCMonth() === month - 1 && date.getUTCDate() === day;
}

// A new message as this client writes it: its members, the body last.
export function compose(from, to, body) {
  const now = new Date().toISOString(); // 2026-11-24T01:45:30.123Z
  const id = `${now.slice(0, 19).replace(/[-:]/g, "")}.${now.slice(20, 23)}000000Z-${randomBytes(6).toString("hex")}`;
  const sent = `${now.slice(0, 23)}000Z`;
  return new Map(Object.entries({ v: 1n, id, from, to, sent, body }));
}
