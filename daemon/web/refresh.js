// Replaces the page's content every few seconds while somebody looks at it; without scripts the page reloads itself.
"use strict";
const period = 3000;
async function refresh() {
  if (document.hidden || window.getSelection().type === "Range") return;
  try {
    const response = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(10000) });
    if (!response.ok) return;
    const next = new DOMParser().parseFromString(await response.text(), "text/html");
    for (const id of ["content", "at"]) {
      const now = document.getElementById(id), then = next.getElementById(id);
      if (now.innerHTML !== then.innerHTML) now.replaceWith(then);
    }
    document.getElementById("at").classList.remove("problem");
  } catch {
    document.getElementById("at").classList.add("problem"); // the page is old: the daemon does not answer
  }
}
setInterval(refresh, period);
