// Figures and names for people, in the same words as the commands use.

const UNITS = ["kB", "MB", "GB", "TB", "PB", "EB"];

/** An amount of bytes in powers of 1000: `999 B`, `1.5 kB`, `12 MB`. */
export function bytes(amount) {
  if (amount < 1000) return `${Math.round(amount)} B`;
  let unit = -1;
  do { amount /= 1000; unit += 1; } while (amount >= 999.5 && unit < UNITS.length - 1);
  return `${amount < 9.95 ? amount.toFixed(1) : Math.round(amount)} ${UNITS[unit]}`;
}

/** Bytes a second. */
export const rate = (amount) => `${bytes(amount)}/s`;

/** A time in milliseconds: `0.31 ms`, `31.2 ms`, `1204 ms`; a dash where it is not known. */
export function ms(value) {
  if (value == null) return "–";
  return `${value < 1 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : Math.round(value)} ms`;
}

/** The round trip of a link as its end tells it, which is in whole milliseconds. */
export const told = (value) => (value == null ? "" : value < 1 ? "<1 ms" : `${Math.round(value)} ms`);

/** A share from 0 to 1 in percent. */
export function percent(share) {
  if (share == null) return "–";
  const value = share * 100;
  return `${value > 0 && value < 10 ? value.toFixed(1) : Math.round(value)} %`;
}

/** An age with one unit: `14 s`, `3 min`, `5 h`, `2 d`. */
export function age(milliseconds) {
  const seconds = Math.floor(milliseconds / 1000);
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

/** How packets go: `direct 203.0.113.7:4433`, `relayed via fra-1 > nyc-2`, `none`. */
export function path({ kind, addr, via }) {
  const words = [kind];
  if (addr) words.push(addr);
  if (via?.length) words.push(`via ${via.join(" > ")}`);
  return words.join(" ");
}

/** The start of a node id, long enough for commands. */
export const short = (id) => id.slice(0, 10);

/** `1 member`, `3 members`. */
export const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

/** A new element with text and children; names are text and never markup. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** Sets an element's text if it is another one. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}
