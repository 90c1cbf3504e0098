"use strict";
// Asks for the page again every few seconds and takes over what differs, node by node, so that what a reader has
// opened, focused or scrolled stays. Without a script the page is whole, and stands still.
const EVERY_MS = 3000;
let tag = "";

function alike(old, fresh) {
  return old.nodeType === fresh.nodeType && old.nodeName === fresh.nodeName && old.id === fresh.id;
}

function takeAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of [...fresh.attributes]) {
    if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

function takeOver(old, fresh) {
  if (old.isEqualNode(fresh) || old.hasAttribute?.("data-still")) return;
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.nodeValue = fresh.nodeValue;
    return;
  }
  const atEnd = old.scrollTop + old.clientHeight >= old.scrollHeight - 4;
  takeAttributes(old, fresh);
  const now = [...old.childNodes], then = [...fresh.childNodes];
  then.forEach((node, place) => {
    if (place >= now.length) old.append(document.importNode(node, true));
    else if (alike(now[place], node)) takeOver(now[place], node);
    else now[place].replaceWith(document.importNode(node, true));
  });
  now.slice(then.length).forEach((node) => node.remove());
  if (atEnd && old.classList.contains("log")) old.scrollTop = old.scrollHeight;
}

function say(text) {
  const place = document.getElementById("link");
  if (place && place.textContent !== text) place.textContent = text;
}

async function update() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
    if (answer.status === 401) return location.reload();
    if (answer.status !== 304) {
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      takeOver(document.getElementById("main"), fresh.getElementById("main"));
      tag = answer.ok ? answer.headers.get("ETag") || "" : "";
    }
    say("");
  } catch {
    say("The server does not answer. What is shown may be out of date.");
  }
}

async function again() {
  await update();
  setTimeout(again, EVERY_MS);
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const code = button.previousElementSibling;
  getSelection().selectAllChildren(code);
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Selected: press Ctrl-C";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
});
document.addEventListener("visibilitychange", update);
for (const log of document.querySelectorAll(".log")) log.scrollTop = log.scrollHeight;
if (document.getElementById("main")?.hasAttribute("data-live")) setTimeout(again, EVERY_MS);
