// Light or dark: the system's choice, or the reader's.

const theme = () => {
  const button = at("theme"),
    root = document.documentElement;
  const dark = () =>
    (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => {
    button.textContent = dark() ? "Light" : "Dark";
  };
  try {
    const kept = localStorage.getItem("previa-theme");
    if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  } catch {
    /* no storage for pages from disk: the system's choice stands */
  }
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("previa-theme", root.dataset.theme);
    } catch {
      /* as above */
    }
    name();
  });
  name();
};
