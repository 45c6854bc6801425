// Ed25519 as far as tweetnacl does not look: which keys are somebody's, and which signatures are written in the one way.

const P = 2n ** 255n - 19n;
const L = 2n ** 252n + 27742317777372353535851937790883648493n;
const mod = (a) => ((a % P) + P) % P;
const D = mod(-121665n * power(121666n, P - 2n));
const ROOT = power(2n, (P - 1n) / 4n); // of -1

// Whether it is a point of the prime group, in its one encoding.
export function isIdentity(key) {
  if (key.length !== 32) return false;
  const point = decoded(key);
  return point !== null && !isNothing(point) && isNothing(times(L, point));
}

// Whether the second half of a signature is below the order of the group.
export const isReduced = (signature) => number(signature.subarray(32)) < L;

function number(bytes) {
  return BigInt(`0x${Buffer.from(bytes).reverse().toString("hex")}`);
}

function power(base, exponent) {
  let result = 1n;
  for (let b = mod(base), e = exponent; e > 0n; e >>= 1n, b = mod(b * b)) if (e & 1n) result = mod(result * b);
  return result;
}

function decoded(key) {
  const all = number(key);
  const [sign, y] = [all >> 255n, all & (2n ** 255n - 1n)];
  if (y >= P) return null;
  const square = mod((y * y - 1n) * power(D * y * y + 1n, P - 2n));
  let x = power(square, (P + 3n) / 8n);
  if (mod(x * x) !== square) x = mod(x * ROOT);
  if (mod(x * x) !== square || (x === 0n && sign === 1n)) return null;
  if ((x & 1n) !== sign) x = P - x;
  return [x, y, 1n, mod(x * y)];
}

// Extended coordinates: X/Z, Y/Z, T = XY/Z.
function sum([x1, y1, z1, t1], [x2, y2, z2, t2]) {
  const a = mod((y1 - x1) * (y2 - x2));
  const b = mod((y1 + x1) * (y2 + x2));
  const c = mod(2n * D * t1 * t2);
  const d = mod(2n * z1 * z2);
  const [e, f, g, h] = [b - a, d - c, d + c, b + a];
  return [mod(e * f), mod(g * h), mod(f * g), mod(e * h)];
}

function times(factor, point) {
  let result = [0n, 1n, 1n, 0n];
  for (let k = factor, each = point; k > 0n; k >>= 1n, each = sum(each, each)) if (k & 1n) result = sum(result, each);
  return result;
}

const isNothing = ([x, y, z]) => x === 0n && y === z;
