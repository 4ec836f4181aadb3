// What the page does by itself: dark or light, words for a moment, and sending pictures that were dropped.
(() => {
  const root = document.documentElement;
  const kept = localStorage.getItem("spectra-theme");
  if (kept) root.dataset.theme = kept;

  function theme() {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("spectra-theme", root.dataset.theme);
  }

  function say(text) {
    const toast = document.getElementById("toast");
    toast.textContent = text;
    clearTimeout(say.timer);
    say.timer = setTimeout(() => (toast.textContent = ""), 8000);
  }

  async function upload(files, tray, zone) {
    const told = zone.querySelector(".told");
    const wrong = [];
    let done = 0;
    zone.classList.remove("over");
    zone.classList.add("busy");
    for (const file of [...files]) {
      told.textContent = `sending ${++done} of ${files.length}`;
      try {
        const answer = await fetch(`/upload/${tray}?name=${encodeURIComponent(file.name)}`, {
          method: "POST",
          body: file,
        });
        if (!answer.ok) wrong.push((await answer.json()).error);
      } catch (error) {
        wrong.push(`${file.name}: ${error.message}`);
      }
    }
    zone.classList.remove("busy");
    told.textContent = "";
    if (wrong.length) say(wrong.join("; "));
    zone.querySelector("input").value = "";
    zone.dispatchEvent(new CustomEvent("uploaded"));
  }

  window.studio = { theme, say, upload };
})();
