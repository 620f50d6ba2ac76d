// Make one element like another by changing only what differs: focus, scroll, selection, what was typed and what
// was opened all stay.

const KEPT = { DETAILS: ["open"], DIALOG: ["open"], A: ["tabindex"], a: ["tabindex"] };

export function morph(from, to) {
  const kept = KEPT[from.nodeName] ?? [];
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && !kept.includes(name) && !(name === "hidden")) from.removeAttribute(name);
  }
  for (const { name, value } of to.attributes) {
    if (kept.includes(name) || (name === "hidden" && from.classList.contains("scripted"))) continue;
    if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  if (["INPUT", "SELECT", "TEXTAREA"].includes(from.nodeName)) return;
  children(from, to);
}

function key(node) {
  return node.nodeType === Node.ELEMENT_NODE ? node.dataset?.key ?? (node.id || null) : null;
}

function alike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && key(one) === key(other);
}

function children(from, to) {
  const keyed = new Map();
  for (const child of from.childNodes) if (key(child)) keyed.set(key(child), child);
  let place = from.firstChild;
  for (const wanted of [...to.childNodes]) {
    const name = key(wanted);
    const known = name ? keyed.get(name) : null;
    if (known && known.nodeName === wanted.nodeName) {
      if (known === place) place = place.nextSibling;
      else from.insertBefore(known, place);
      keyed.delete(name);
      morph(known, wanted);
    } else if (place && alike(place, wanted)) {
      const here = place;
      place = place.nextSibling;
      if (here.nodeType === Node.ELEMENT_NODE) morph(here, wanted);
      else if (here.nodeValue !== wanted.nodeValue) here.nodeValue = wanted.nodeValue;
    } else {
      from.insertBefore(document.importNode(wanted, true), place);
    }
  }
  while (place) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}
