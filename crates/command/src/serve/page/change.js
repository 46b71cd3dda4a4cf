// Pause, resume, release and reset, where the server allows it: first the plan in the words of the command, then the change.

const $ = (id) => document.getElementById(id);
const FIELDS = ["action", "scope", "for", "to", "live", "by", "token"];
let allowed = { isAllowed: false, needsToken: false }, shown = null, isBusy = false, selected = () => null;

export async function setUpChange(selectedShard) {
  selected = selectedShard;
  try {
    const answer = await fetch("api/changes");
    if (answer.ok) allowed = await answer.json();
  } catch { /* the page says elsewhere that the server does not answer */ }
  $("change").hidden = !allowed.isAllowed;
  $("change").addEventListener("click", openChange);
  $("change-close").addEventListener("click", () => $("change-dialog").close());
  $("change-plan").addEventListener("click", () => send(false));
  $("change-execute").addEventListener("click", () => send(true));
  for (const field of FIELDS) $(`change-${field}`).addEventListener("input", forget);
  document.documentElement.dataset.changes = String(allowed.isAllowed);
}

export function openChange() {
  if (!allowed.isAllowed || $("change-dialog").open) return;
  const shard = selected();
  $("change-scope").value = shard ? "one" : "";
  $("change-scope").options[1].disabled = !shard;
  $("change-shard").textContent = shard ? `The selected shard is ${shard}.` : "No shard is selected.";
  $("change-lines").textContent = "";
  forget();
  $("change-dialog").showModal();
}

// A plan is carried out only as it was shown.
function forget() {
  shown = null;
  $("change-execute").disabled = true;
  const action = $("change-action").value;
  $("change-for-label").hidden = $("change-by-label").hidden = action !== "pause";
  $("change-to-label").hidden = action !== "reset";
  $("change-live-label").hidden = action !== "release" && action !== "reset";
  $("change-token-label").hidden = !allowed.needsToken;
}

function request() {
  const action = $("change-action").value, asked = { action };
  if ($("change-scope").value === "all") asked.all = true;
  if ($("change-scope").value === "one") asked.shards = [selected()];
  if (action === "pause") Object.assign(asked, { for: $("change-for").value, by: $("change-by").value });
  if (action === "reset") asked.to = $("change-to").value;
  if (action === "release" || action === "reset") asked.live = $("change-live").checked;
  return asked;
}

async function send(execute) {
  if (isBusy || (execute && !shown)) return;
  const asked = execute ? { ...shown, execute: true } : request();
  const headers = { "content-type": "application/json", "x-fleet-change": "1" };
  if (allowed.needsToken) headers.authorization = `Bearer ${$("change-token").value}`;
  isBusy = true;
  $("change-plan").disabled = $("change-execute").disabled = true;
  $("change-lines").textContent = "looking for live workers; this may take a minute …";
  try {
    const answer = await fetch("api/changes", { method: "POST", headers, body: JSON.stringify(asked) });
    const text = await answer.text();
    if (!answer.ok) throw new Error(text.trim());
    const given = JSON.parse(text);
    $("change-lines").textContent = given.lines.join("\n");
    shown = execute || given.isRefused || !given.changes ? null : asked;
  } catch (error) {
    $("change-lines").textContent = error.message;
    shown = null;
  }
  isBusy = false;
  $("change-plan").disabled = false;
  $("change-execute").disabled = !shown;
}
