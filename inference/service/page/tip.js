// Lets a pointer or the keyboard ask an entity for its label and probability. Knows nothing of what made the marks.

/**
 * Watches a box of marks, of which one can be reached with Tab and the others from there with the arrow keys.
 * @param {HTMLElement} box Holds the marks, right to left.
 * @param {HTMLElement} tip Shows what is said of one; lies in the same positioned parent as the box.
 * @param {(mark: HTMLElement) => Node[]} describe Says what there is to say of a mark.
 * @returns {() => void} Hides the tip.
 */
export function watchMarks(box, tip, describe) {
  const marks = () => [...box.querySelectorAll("mark")];
  let shown = null;

  function hide() {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    tip.hidden = true;
  }

  function show(mark) {
    hide();
    shown = mark;
    tip.replaceChildren(...describe(mark));
    tip.hidden = false;
    mark.setAttribute("aria-describedby", tip.id);
    const parent = tip.offsetParent.getBoundingClientRect();
    const line = mark.getClientRects()[0];
    const middle = (line.left + line.right - tip.offsetWidth) / 2 - parent.left;
    tip.style.left = `${Math.max(0, Math.min(middle, parent.width - tip.offsetWidth))}px`;
    tip.style.top = `${line.top - parent.top - tip.offsetHeight}px`;
  }

  // Without a pointer on one, the focused mark is the one that matters.
  function settle() {
    const focused = document.activeElement;
    return box.contains(focused) ? show(focused) : hide();
  }

  box.parentElement.addEventListener("pointerleave", settle);
  box.parentElement.addEventListener("pointerover", ({ target }) => {
    if (target.matches("mark") && box.contains(target)) {
      show(target);
    } else if (!tip.contains(target)) { // the pointer may rest on the tip itself, to read or copy it
      settle();
    }
  });
  box.addEventListener("focusin", ({ target }) => {
    for (const mark of marks()) {
      mark.tabIndex = mark === target ? 0 : -1;
    }
    show(target);
  });
  box.addEventListener("focusout", hide);
  document.addEventListener("keydown", ({ key }) => key === "Escape" && hide());

  box.addEventListener("keydown", (event) => {
    const all = marks();
    const at = all.indexOf(document.activeElement);
    const targets = { ArrowLeft: at + 1, ArrowRight: at - 1, Home: 0, End: all.length - 1 };
    const plain = !(event.altKey || event.ctrlKey || event.metaKey || event.shiftKey);
    if (plain && event.key in targets) {
      event.preventDefault();
      all[targets[event.key]]?.focus();
    }
  });
  return hide;
}
