// The chat. What is told is put in as text, never as markup; the page's policy holds it to that.
(() => {
  "use strict";
  const WORDS = {
    en: {
      title: "Chat", question: "Your question", send: "Send", close: "Close", you: "You:", it: "Answer:", sources: "Sources",
      page: "page", line: "lines", greeting: "Ask about the documents.", wait: "Connecting …",
      computed: "How this was computed", quoted: "Quoted word for word.", nothing: "Not in the documents.",
      good: "Good answer", bad: "Bad answer", better: "How should it have been answered?", tell: "Send", thanks: "Thank you.",
      ended: "The chat has ended. Reload the page to go on.", busy: "Too many questions. Try again shortly.",
      failed: "No answer could be given. Try again.", link: "This link is not complete, or nothing is published here any more.",
    },
    zh: {
      title: "聊天", question: "您的问题", send: "发送", close: "关闭", you: "您：", it: "回答：", sources: "出处",
      page: "第 {} 页", line: "第 {} 行", greeting: "请就文档内容提问。", wait: "正在连接……",
      computed: "计算过程", quoted: "以上为文档原文。", nothing: "文档中没有相关内容。",
      good: "回答得好", bad: "回答得不好", better: "应当如何回答？", tell: "发送", thanks: "感谢您的反馈。",
      ended: "聊天已结束，请刷新页面后继续。", busy: "提问过于频繁，请稍后再试。",
      failed: "未能给出回答，请重试。", link: "链接不完整，或内容已不再发布。",
    },
  };
  const MOST_TURNS = 12;
  const one = (id) => document.getElementById(id);
  const isFrame = document.body.dataset.mode === "frame";
  // /embed/pub_…/frame, or /share/pub_…, wherever a proxy has put these.
  const path = location.pathname;
  const base = location.origin + (isFrame ? path.replace(/\/frame$/, "") : path.replace(/\/share\/([^/]+)$/, "/embed/$1"));

  let words = WORDS[navigator.language?.toLowerCase().startsWith("zh") ? "zh" : "en"];
  let session = null;
  let holder = null; // origin of the page that holds the frame, once it has spoken
  let ends = 0;
  let waiting = [];
  let turns = [];

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function speak(language) {
    const chosen = language === "en" || language === "zh" ? language : "en";
    words = WORDS[chosen];
    document.documentElement.lang = chosen;
    one("question-label").textContent = words.question;
    one("question").placeholder = words.question;
    one("send").textContent = words.send;
    one("close").setAttribute("aria-label", words.close);
    const title = session?.title || words.title;
    one("title").textContent = title;
    document.title = title;
  }

  function fault(text) {
    one("problem").textContent = text;
    one("problem").hidden = !text;
  }

  // -- sessions ----------------------------------------------------------------------------------------------------------

  function take(given, language, focus) {
    const isFirst = session === null;
    session = given;
    ends = Date.now() + (given.expires_in - 20) * 1000;
    if (isFirst) {
      speak(given.language === "auto" ? language : given.language);
      one("log").append(turn("assistant", given.greeting || words.greeting));
      one("send").disabled = false;
      if (focus) one("question").focus();
      document.body.dataset.state = "ready";
    }
    for (const resolve of waiting) resolve();
    waiting = [];
  }

  function renewed() {
    return new Promise((resolve, reject) => {
      waiting.push(resolve);
      setTimeout(() => reject(Object.assign(new Error("no session"), { status: 401 })), 15000);
      if (isFrame) parent.postMessage({ modelworks: "renew" }, holder ?? "*");
      else begin().catch(reject);
    });
  }

  async function begin() {
    const token = decodeURIComponent(location.hash.slice(1));
    const response = await fetch(`${base}/session`, { method: "POST", body: token, credentials: "omit", cache: "no-store" });
    if (!response.ok) throw Object.assign(new Error("refused"), { status: response.status });
    take(await response.json(), navigator.language?.toLowerCase().startsWith("zh") ? "zh" : "en", true);
  }

  async function send(what, body) {
    if (Date.now() > ends) await renewed();
    const post = () => fetch(`${base}/${what}`, {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${session.token}` },
      body: JSON.stringify(body),
      credentials: "omit",
      cache: "no-store",
    });
    let response = await post();
    if (response.status === 401) {
      await renewed();
      response = await post();
    }
    if (!response.ok) throw Object.assign(new Error("refused"), { status: response.status });
    return response;
  }

  // -- what is shown -----------------------------------------------------------------------------------------------------

  function turn(role, text) {
    const element = make("div", `turn ${role}`);
    element.append(make("span", "who", role === "user" ? words.you : words.it), make("div", "text", text));
    return element;
  }

  function place(citation) {
    const found = [];
    const say = (form, value) => found.push(form.includes("{}") ? form.replace("{}", value) : `${form} ${value}`);
    if (citation.headings.length) found.push(citation.headings.join(" › "));
    if (citation.page) say(words.page, citation.page);
    if (citation.cells) found.push(citation.cells);
    if (citation.lines) say(words.line, citation.lines.join("–"));
    return found.length ? ` (${found.join(", ")})` : "";
  }

  function opening(citation, className, text) {
    const link = make("a", className, text);
    const url = new URL(citation.url, `${base}/`);
    // Only documents of this publication are opened from here.
    if (url.origin === location.origin && url.href.startsWith(`${base}/documents/`)) link.href = url.href;
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    return link;
  }

  // The query and its rows, closed until somebody opens them: by click or key, as browsers have it.
  function computed(found) {
    const [details, table, body] = [make("details", "computed"), make("table"), make("tbody")];
    const heads = make("tr");
    for (const column of found.columns) {
      const head = make("th", "", column);
      head.scope = "col";
      heads.append(head);
    }
    for (const row of found.rows) {
      const cells = make("tr");
      for (const cell of row) cells.append(make("td", "", cell));
      body.append(cells);
    }
    const top = make("thead");
    top.append(heads);
    table.append(top, body);
    details.append(make("summary", "", words.computed), make("pre", "", found.sql), table);
    if (found.is_cut) details.append(make("p", "note", "…"));
    return details;
  }

  function cited(element, answer) {
    const known = new Map(answer.citations.map((each) => [String(each.number), each]));
    const text = element.querySelector(".text");
    text.textContent = "";
    const evidence = answer.computed?.evidence ?? "";
    const shown = evidence && answer.text.endsWith(evidence) ? answer.text.slice(0, -evidence.length).trimEnd() : answer.text;
    for (const piece of shown.split(/(\[\d+\])/)) {
      const citation = /^\[\d+\]$/.test(piece) ? known.get(piece.slice(1, -1)) : undefined;
      if (citation) {
        const mark = opening(citation, "mark", piece);
        mark.setAttribute("aria-label", `${words.sources} ${citation.number}: ${citation.document}`);
        text.append(mark);
      } else {
        text.append(piece);
      }
    }
    if (answer.computed) element.append(computed(answer.computed));
    if (answer.status === "quoted") element.append(make("p", "note", words.quoted));
    if (known.size) {
      element.append(make("p", "note", words.sources));
      const list = make("ol", "sources");
      for (const citation of known.values()) {
        const item = make("li");
        item.value = citation.number;
        item.append(opening(citation, "", citation.document), place(citation), make("q", "", citation.quote));
        list.append(item);
      }
      element.append(list);
    }
  }

  // Drawn, as not every machine has letters for it.
  function thumb() {
    const [drawing, path] = ["svg", "path"].map((tag) => document.createElementNS("http://www.w3.org/2000/svg", tag));
    drawing.setAttribute("viewBox", "0 0 24 24");
    drawing.setAttribute("aria-hidden", "true");
    path.setAttribute("d", "M3 10h4v11H3zM9 21V10l4-7c1.6 0 2.4 1.3 2 3l-.8 3H20c1.2 0 1.8.8 1.6 2l-1.5 8.2c-.2 1.1-.9 1.8-2 1.8z");
    drawing.append(path);
    return drawing;
  }

  function voiced(element, question, answer) {
    const row = make("div", "voice");
    const [good, bad] = [make("button", "plain"), make("button", "plain down")];
    const say = async (rating, correction) => {
      const { ticket, text, status, documents } = answer;
      const body = { ticket, question, answer: text, status, documents, rating };
      try {
        await send("feedback", correction ? { ...body, correction } : body);
        good.setAttribute("aria-pressed", String(rating === "up"));
        bad.setAttribute("aria-pressed", String(rating === "down"));
        return true;
      } catch (error) {
        fault(told(error));
        return false;
      }
    };
    const thank = () => {
      row.querySelector("[role=status]")?.remove();
      const note = make("p", "note", words.thanks);
      note.setAttribute("role", "status");
      row.append(note);
    };
    for (const [button, name] of [[good, words.good], [bad, words.bad]]) {
      button.type = "button";
      button.append(thumb());
      button.title = name;
      button.setAttribute("aria-label", name);
      button.setAttribute("aria-pressed", "false");
    }
    good.addEventListener("click", async () => {
      row.querySelector("form")?.remove();
      if (await say("up")) thank();
    });
    bad.addEventListener("click", async () => {
      if (!(await say("down")) || row.querySelector("form")) return;
      const form = make("form");
      const field = make("textarea");
      field.rows = 2;
      field.maxLength = 4000;
      field.placeholder = words.better;
      field.setAttribute("aria-label", words.better);
      const done = make("button", "", words.tell);
      done.type = "submit";
      form.append(field, done);
      form.addEventListener("submit", async (event) => {
        event.preventDefault();
        if (await say("down", field.value.trim())) {
          form.remove();
          thank();
          one("question").focus();
        }
      });
      row.append(form);
      field.focus();
    });
    row.append(good, bad);
    element.append(row);
  }

  function told(error) {
    if (error.status === 401 || error.status === 403 || error.status === 404) return words.ended;
    return error.status === 429 ? words.busy : words.failed;
  }

  // -- asking ------------------------------------------------------------------------------------------------------------

  async function* events(response) {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      const blocks = rest.split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        if (block.startsWith("data: {")) yield JSON.parse(block.slice(6));
      }
    }
  }

  async function ask(question) {
    fault("");
    const log = one("log");
    log.append(turn("user", question));
    const element = turn("assistant", "");
    element.setAttribute("aria-busy", "true");
    log.append(element);
    const text = element.querySelector(".text");
    const isAtEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    log.scrollTop = log.scrollHeight;
    one("send").disabled = true;
    let answer = null;
    try {
      const messages = [...turns, { role: "user", content: question }];
      const response = await send("ask", { messages, parent: holder ?? location.origin });
      for await (const event of events(response)) {
        const follows = isAtEnd();
        if (event.error) throw Object.assign(new Error("failed"), { status: event.error.type === "rate_limit_error" ? 429 : 500 });
        if (event.text) text.append(event.text);
        if (event.answer) answer = event.answer;
        if (follows) log.scrollTop = log.scrollHeight;
      }
      if (!answer) throw Object.assign(new Error("broken off"), { status: 500 });
      cited(element, answer);
      voiced(element, question, answer);
      const said = { role: "assistant", content: answer.text || words.nothing };
      turns = [...turns, { role: "user", content: question }, said].slice(-MOST_TURNS);
      document.body.dataset.answers = String(Number(document.body.dataset.answers ?? 0) + 1);
    } catch (error) {
      if (!text.textContent) element.remove();
      fault(told(error));
      one("question").value ||= question;
    } finally {
      element.removeAttribute("aria-busy");
      one("send").disabled = false;
      if (isAtEnd()) log.scrollTop = log.scrollHeight;
    }
  }

  one("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = one("question");
    const question = field.value.trim();
    if (!question || one("send").disabled) return;
    field.value = "";
    ask(question);
  });
  one("question").addEventListener("keydown", (event) => {
    // Enter that ends a word of an input method sends nothing.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      one("form").requestSubmit();
    }
  });

  speak(words === WORDS.zh ? "zh" : "en");
  one("send").disabled = true;
  if (!isFrame) {
    begin().catch((error) => fault(error.status === 429 ? words.busy : words.link));
    return;
  }
  if (parent === window) {
    fault(words.link);
    return;
  }
  one("close").hidden = false;
  one("close").addEventListener("click", () => parent.postMessage({ modelworks: "close" }, holder ?? "*"));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") parent.postMessage({ modelworks: "close" }, holder ?? "*");
  });
  window.addEventListener("message", (event) => {
    if (event.source !== parent || event.data?.modelworks !== "session") return;
    const given = event.data.session;
    // A session is worth something in the page alone that it was given to.
    if (!given || typeof given.token !== "string" || given.origin !== event.origin) return;
    if (holder !== null && holder !== event.origin) return;
    holder = event.origin;
    take(given, event.data.language, event.data.focus === true);
  });
  parent.postMessage({ modelworks: "ready" }, "*");
})();
