// FORMAT.md, "Sealed and signed mail": the second implementation of it.

import { createHash } from "node:crypto";
import nacl from "tweetnacl";
import sealedbox from "tweetnacl-sealedbox-js";
import { isIdentity, isReduced } from "./curve.mjs";
import { isAddress, isId, message } from "./envelope.mjs";
import { Refused, write } from "./json.mjs";

const HINTS = { v: "bigint", id: "string", from: "string", to: "string", sent: "string" };
const TAIL = /,"sig":"mbs1:([0-9a-f]{32}):([A-Za-z0-9+/]{86}==)"\}\n$/;

const utf8 = (text) => Buffer.from(text, "utf-8");
export const kid = (key) => createHash("sha256").update(key).digest("hex").slice(0, 32);

// Whether mail can be sealed to it, or was sealed with it: no point with which all secrets make the same key.
export function isBox(key) {
  return key.length === 32 && nacl.scalarMult(new Uint8Array(32).fill(7), key).some((byte) => byte !== 0);
}

function pae(...parts) {
  const number = (value) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    return bytes;
  };
  return Buffer.concat([number(parts.length), ...parts.flatMap((part) => [number(part.length), part])]);
}

function padded(size) {
  let bucket = 256;
  while (8 * bucket < size) bucket *= 2;
  return Math.ceil(size / bucket) * bucket;
}

function base64(text) {
  const data = Buffer.from(text, "base64"); // takes nearly anything
  if (data.toString("base64") !== text) throw new Refused("base64");
  return new Uint8Array(data);
}

function isSignature(key, data, signature) {
  return isIdentity(key) && isReduced(signature) && nacl.sign.detached.verify(data, signature, key);
}

function pinned(from, skid, pins) {
  const key = isAddress(from) ? pins.get(from) : undefined;
  if (key === undefined) throw new Refused("pin");
  if (kid(key) !== skid) throw new Refused("skid");
  return key;
}

function checkHints(members, to) {
  for (const [hint, type] of Object.entries(HINTS)) if (typeof members.get(hint) !== type) throw new Refused("type");
  if (members.get("v") !== 1n) throw new Refused("version");
  if (!isId(members.get("id"))) throw new Refused("id");
  if (members.get("to") !== to) throw new Refused("to");
}

function checkForm(members) {
  if (!members.has("body") || members.has("sealed") || members.has("sig")) throw new Refused("form");
}

function exactly(map, ...names) {
  return map.size === names.length && names.every((name) => map.has(name));
}

// The members of what is in a sealed file. boxes: kid → {publicKey, secretKey}; pins: address → identity.
export function open(file, to, boxes, pins) {
  const outer = message(file);
  const sealed = outer.get("sealed");
  if (!exactly(outer, ...Object.keys(HINTS), "sealed")) throw new Refused("members");
  if (!(sealed instanceof Map && exactly(sealed, "alg", "kid", "skid", "data"))) throw new Refused("sealed");
  if (![...sealed.values()].every((value) => typeof value === "string")) throw new Refused("sealed");
  if (sealed.get("alg") !== "mbx1") throw new Refused("alg");
  checkHints(outer, to);
  const box = boxes.get(sealed.get("kid"));
  if (box === undefined) throw new Refused("kid");
  const plain = opened(base64(sealed.get("data")), box);
  const size = plain.length < 68 ? NaN : 68 + plain.readUInt32LE(64);
  if (!(size <= plain.length)) throw new Refused("frame");
  if (plain.length !== padded(size) || plain.subarray(size).some((byte) => byte !== 0)) throw new Refused("frame");
  const inner = plain.subarray(68, size);
  const key = pinned(outer.get("from"), sealed.get("skid"), pins);
  const proof = pae(utf8("mailbox.v1.sealed"), box.publicKey, inner);
  if (!isSignature(key, proof, new Uint8Array(plain.subarray(0, 64)))) throw new Refused("signature");
  const members = message(inner);
  for (const hint of Object.keys(HINTS)) if (members.get(hint) !== outer.get(hint)) throw new Refused("differs");
  checkForm(members);
  return members;
}

function opened(data, box) {
  if (data.length < 48 || !isBox(data.subarray(0, 32))) throw new Refused("open"); // tweetnacl takes them
  const plain = sealedbox.open(data, box.publicKey, box.secretKey);
  if (!plain) throw new Refused("open");
  return Buffer.from(plain);
}

// The file in which members are sealed to a box key, by the identity of this seed.
export function seal(members, box, seed) {
  if (!isBox(box)) throw new Refused("box");
  const { publicKey, secretKey } = nacl.sign.keyPair.fromSeed(seed);
  const inner = utf8(`${write(members)}\n`);
  const plain = Buffer.alloc(padded(68 + inner.length));
  plain.set(nacl.sign.detached(pae(utf8("mailbox.v1.sealed"), box, inner), secretKey));
  plain.writeUInt32LE(inner.length, 64);
  plain.set(inner, 68);
  const data = Buffer.from(sealedbox.seal(new Uint8Array(plain), box)).toString("base64");
  const sealed = new Map(Object.entries({ alg: "mbx1", kid: kid(box), skid: kid(publicKey), data }));
  const hints = Object.keys(HINTS).map((hint) => [hint, members.get(hint)]);
  return utf8(`${write(new Map([...hints, ["sealed", sealed]]))}\n`);
}

// The members of a signed file, without its sig.
export function verified(file, to, pins) {
  const tail = TAIL.exec(file.toString("latin1"));
  if (tail === null) throw new Refused("tail");
  const before = file.subarray(0, file.length - tail[0].length);
  const signature = base64(tail[2]);
  const members = message(Buffer.concat([before, utf8("}")]));
  checkHints(members, to);
  const key = pinned(members.get("from"), tail[1], pins);
  if (!isSignature(key, pae(utf8("mailbox.v1.signed"), before), signature)) throw new Refused("signature");
  checkForm(members);
  return members;
}

// The file of members, signed by the identity of this seed.
export function sign(members, seed) {
  const { publicKey, secretKey } = nacl.sign.keyPair.fromSeed(seed);
  const before = utf8(write(members).slice(0, -1));
  const signature = nacl.sign.detached(pae(utf8("mailbox.v1.signed"), before), secretKey);
  const sig = `mbs1:${kid(publicKey)}:${Buffer.from(signature).toString("base64")}`;
  return Buffer.concat([before, utf8(`,"sig":"${sig}"}\n`)]);
}

export { isIdentity };
