// Adds a chat to a page: a button, and a frame of the server's own that holds the chat. Nothing of the chat is in the page itself.
// <script src="https://server/embed/pub_….js" data-token="mwp_…" async></script>
// Further attributes: data-language (en, zh), data-label, data-position (left, right), data-open (the chat is open at once).
(() => {
  "use strict";
  const script = document.currentScript;
  if (!(script instanceof HTMLScriptElement)) return;
  const source = new URL(script.src);
  const found = /^(.*\/embed\/[A-Za-z0-9_-]+)\.js$/.exec(source.pathname);
  if (!found) return;
  const base = source.origin + found[1];
  const { token = "", label, position, open } = script.dataset;

  const WORDS = {
    en: { ask: "Ask a question", title: "Chat", failed: "The chat cannot be opened here.", busy: "Too many questions. Try again shortly." },
    zh: { ask: "提问", title: "聊天", failed: "此处无法打开聊天。", busy: "提问过于频繁，请稍后再试。" },
  };
  const wish = script.dataset.language || document.documentElement.lang || navigator.language || "en";
  const language = wish.toLowerCase().startsWith("zh") ? "zh" : "en";
  const words = WORDS[language];

  // A shadow root keeps the page's style sheets away from the button; made by script, its own needs no leave of the page's policy.
  const host = document.createElement("div");
  host.dataset.modelworks = "closed";
  const root = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`
    :host { all: initial; }
    .corner { bottom: 1rem; ${position === "left" ? "left" : "right"}: 1rem; position: fixed; z-index: 2147483000;
      font: 16px/1.4 system-ui, -apple-system, "Segoe UI", "PingFang SC", "Microsoft YaHei", sans-serif; }
    button { background: #0b57a4; border: 2px solid #ffffff; border-radius: 1.6rem; color: #ffffff; cursor: pointer; float: right;
      font: inherit; min-height: 3rem; padding: .4rem 1.2rem; }
    button:focus-visible { outline: 3px solid #0b57a4; outline-offset: 2px; }
    .panel { background: #ffffff; border: 1px solid #727f8d; border-radius: .7rem; bottom: 4rem; box-shadow: 0 .4rem 1.6rem #0005;
      box-sizing: border-box; height: min(38rem, calc(100vh - 6rem)); overflow: hidden; position: absolute;
      ${position === "left" ? "left" : "right"}: 0; width: min(25rem, calc(100vw - 2rem)); }
    .panel[hidden], p[hidden] { display: none; }
    .panel.told { height: auto; }
    iframe { border: 0; display: block; height: 100%; width: 100%; }
    p { color: #a4161a; margin: 0; padding: 1rem; }
    @media (prefers-reduced-motion: no-preference) { button { transition: background .15s; } }
    @media (forced-colors: active) { button, .panel { border-color: ButtonText; } }
  `);
  root.adoptedStyleSheets = [sheet];

  const corner = document.createElement("div");
  corner.className = "corner";
  const panel = document.createElement("div");
  panel.className = "panel";
  panel.id = "panel";
  panel.hidden = true;
  panel.setAttribute("role", "dialog");
  panel.setAttribute("aria-label", words.title);
  const problem = document.createElement("p");
  problem.setAttribute("role", "alert");
  problem.hidden = true;
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = label || words.ask;
  button.setAttribute("aria-haspopup", "dialog");
  button.setAttribute("aria-expanded", "false");
  button.setAttribute("aria-controls", "panel");
  panel.append(problem);
  corner.append(panel, button);
  root.append(corner);

  let frame = null;
  let session = null;
  let patience = 0; // the timer of a frame that has not spoken: a policy of the page may keep it out without a word
  let isAsked = true; // whether somebody pressed the button: what opens by itself takes nobody's focus

  async function begin() {
    // A body of text and no header of one's own: what a browser sends without asking first (Fetch, CORS-safelisted).
    const response = await fetch(`${base}/session`, {
      method: "POST",
      body: token,
      credentials: "omit",
      cache: "no-store",
      referrerPolicy: "origin",
    });
    if (!response.ok) throw Object.assign(new Error("refused"), { status: response.status });
    return response.json();
  }

  function hand() {
    frame?.contentWindow?.postMessage({ modelworks: "session", session, language, focus: isAsked }, source.origin);
  }

  function refuse(error) {
    clearTimeout(patience);
    host.dataset.modelworks = "refused";
    frame?.remove();
    frame = null;
    panel.classList.add("told");
    problem.textContent = error?.status === 429 ? words.busy : words.failed;
    problem.hidden = false;
  }

  async function show() {
    panel.hidden = false;
    button.setAttribute("aria-expanded", "true");
    if (frame) {
      host.dataset.modelworks = "open";
      frame.focus();
      return;
    }
    problem.hidden = true;
    panel.classList.remove("told");
    host.dataset.modelworks = "opening";
    try {
      session = await begin();
    } catch (error) {
      refuse(error);
      return;
    }
    if (frame) return;
    frame = document.createElement("iframe");
    frame.title = session.title || words.title;
    frame.referrerPolicy = "origin";
    frame.setAttribute(
      "sandbox",
      "allow-scripts allow-same-origin allow-forms allow-popups allow-popups-to-escape-sandbox allow-downloads",
    );
    frame.src = `${base}/frame`;
    panel.append(frame);
    patience = setTimeout(refuse, 20000);
    host.dataset.modelworks = panel.hidden ? "closed" : "open";
    if (isAsked) frame.focus();
  }

  function hide() {
    panel.hidden = true;
    button.setAttribute("aria-expanded", "false");
    if (host.dataset.modelworks === "open") host.dataset.modelworks = "closed";
    button.focus();
  }

  button.addEventListener("click", () => {
    isAsked = true;
    if (panel.hidden) show();
    else hide();
  });
  root.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !panel.hidden) hide();
  });
  window.addEventListener("message", (event) => {
    if (!frame || event.source !== frame.contentWindow || event.origin !== source.origin) return;
    const said = event.data?.modelworks;
    if (said === "ready") {
      clearTimeout(patience);
      hand();
    } else if (said === "close") hide();
    else if (said === "renew") {
      begin().then((fresh) => {
        session = fresh;
        hand();
      }, refuse);
    }
  });

  const settle = () => {
    document.body.append(host);
    if (open === undefined || open === "false") return;
    isAsked = false;
    show();
  };
  if (document.body) settle();
  else document.addEventListener("DOMContentLoaded", settle, { once: true });
})();
