// The copy button appears only where scripts run; without them the command is still there to select.
const button = document.getElementById("copy");
const status = document.getElementById("copy-status");
button.hidden = false;
button.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(document.getElementById("command").textContent);
    status.textContent = button.dataset.done;
  } catch {
    getSelection().selectAllChildren(document.getElementById("command"));
    status.textContent = button.dataset.failed;
  }
});
