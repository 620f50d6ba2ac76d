// Send what a person asks for to the API, with the token that they typed.  It stays in this tab's session storage
// and travels in the Authorization header only.

const TOKEN = "token";
const ODD = "That is no token. It has characters that are not visible ASCII, such as “…”, a curly quote or one without width: copy it whole from where it is kept.";
const dialog = document.getElementById("token-dialog");
const forget = document.getElementById("forget");
const said = document.getElementById("said");
let known = null; // where storage is off
let hide = 0;

function token() {
  try { return sessionStorage.getItem(TOKEN) ?? known; } catch { return known; }
}

function keep(value) {
  known = value;
  try {
    if (value === null) sessionStorage.removeItem(TOKEN); else sessionStorage.setItem(TOKEN, value);
  } catch { /* known is enough */ }
  forget.hidden = value === null;
}

function say(text, { bad = false, link = null } = {}) {
  clearTimeout(hide);
  said.hidden = false;
  said.toggleAttribute("data-bad", bad);
  said.textContent = text;
  if (link) {
    const anchor = document.createElement("a");
    anchor.href = link;
    anchor.textContent = "Look";
    said.append(" ", anchor);
  }
  hide = setTimeout(() => { said.hidden = true; }, bad ? 20000 : 10000);
}

function ask(problem) {
  const complaint = document.getElementById("token-problem");
  complaint.hidden = !problem;
  complaint.textContent = problem ?? "";
  const input = document.getElementById("token");
  input.value = "";
  dialog.returnValue = "";
  dialog.showModal();
  input.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const typed = input.value.trim();
      input.value = "";
      resolve(dialog.returnValue === "use" && typed ? typed : null);
    }, { once: true });
  });
}

// What was filled in, as the JSON that the API wants.  Throws text for a person.
function body(form) {
  const parts = [];
  for (const input of form.querySelectorAll("input[name]")) {
    const text = input.value.trim();
    if (!text) continue;
    let value;
    if ("json" in input.dataset) {
      try { JSON.parse(text); } catch { throw `${input.name}: this is not JSON; write, for example, ${input.placeholder}`; }
      value = text; // as it was typed: written anew, large numbers and keys that are given twice would be others
    } else {
      value = JSON.stringify("utc" in input.dataset ? `${text.length === 16 ? `${text}:00` : text}Z` : text);
    }
    parts.push(`${JSON.stringify(input.name)}:${value}`);
  }
  return `{${parts.join()}}`;
}

async function send(form, refresh) {
  let asked;
  try { asked = body(form); } catch (problem) { say(problem, { bad: true }); return; }
  let problem = null;
  for (;;) {
    let credential = token();
    if (credential === null || problem) {
      credential = await ask(problem);
      if (credential === null) return;
    }
    if (/[^\x21-\x7e]/.test(credential)) { // no configuration takes it, and no header carries all of it
      keep(null);
      problem = ODD;
      continue;
    }
    keep(credential);
    const answer = await fetch(form.dataset.action, {
      method: "POST",
      headers: { Authorization: `Bearer ${credential}`, "Content-Type": "application/json" },
      body: asked,
      credentials: "omit",
      signal: AbortSignal.timeout(15000),
    });
    const told = await answer.json().catch(() => ({}));
    if (answer.status === 401) {
      keep(null);
      problem = "That token was refused.";
      continue;
    }
    if (!answer.ok) {
      say(`${form.dataset.title}: ${told.detail ?? told.title ?? `the answer was ${answer.status}`}`, { bad: true });
      return;
    }
    form.reset();
    for (const one of form.querySelectorAll("details")) one.open = false;
    const run = told.run?.id ?? told.run ?? told.run_id ?? (form.dataset.action.endsWith("/trigger") ? told.id : null);
    say(`${form.dataset.title}: done.`, { link: Number.isInteger(run) ? `/runs/${run}` : null });
    refresh();
    return;
  }
}

export function acting(refresh) {
  forget.hidden = token() === null;
  forget.addEventListener("click", () => { keep(null); say("The token is forgotten."); });
  document.addEventListener("submit", async (event) => {
    const form = event.target.closest("form[data-action]");
    if (!form) return;
    event.preventDefault();
    const button = form.querySelector("button");
    if (button.disabled) return;
    button.disabled = true;
    try { await send(form, refresh); } catch { say(`${form.dataset.title}: this replica does not answer; whether it was done is not known.`, { bad: true }); }
    finally { button.disabled = false; button.focus(); }
  });
}
