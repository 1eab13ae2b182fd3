// Served by `previa view`: when the store has something new, the page loads itself again. Its view is in its address.

let touched = -Infinity; // nobody's slider is taken from under the hand
for (const kind of ["pointerdown", "pointermove", "keydown", "input", "wheel"])
  addEventListener(kind, () => (touched = performance.now()), { passive: true });
const note = el("span", { role: "status", id: "live-note" }, " Live: it follows the study's store.");
at("foot").append(note);
setInterval(async () => {
  try {
    const answer = await fetch("/stamp", { cache: "no-store" });
    if (!answer.ok) return;
    const stamp = (await answer.text()).trim();
    note.textContent = " Live: it follows the study's store.";
    if (stamp !== data.stamp && performance.now() - touched > 3000 && due === null) location.reload();
  } catch {
    note.textContent = " previa view has ended: this is how the store was.";
  }
}, 3000);
