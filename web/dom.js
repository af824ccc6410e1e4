// Owns building elements and pacing changes to them.
// Text only ever enters the page as a text node, so no field of an order can become markup.

/** Builds an element. A function value is an event listener, `false`, `null` and `undefined` leave an attribute out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? '' : value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child !== null && child !== undefined) element.append(child);
  }
}

export const byId = (id) => document.getElementById(id);

/** Wraps `work` so that any number of calls before the next frame run it once, in that frame. */
export function perFrame(work) {
  let due = false;
  return () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      work();
    });
  };
}

/** Says something to a screen reader without moving the focus. */
export function announce(text) {
  byId('announcer').textContent = text;
}
