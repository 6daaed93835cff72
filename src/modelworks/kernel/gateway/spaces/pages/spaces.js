// Documents of data spaces: dropped in, followed until they answer, asked. What is told is put in as text, never as markup.
(() => {
  "use strict";
  const WORDS = {
    en: {
      heading: "Documents", other: "中文", leave: "Sign out", key: "API key", enter: "Go on",
      keyNote: "A key with the scopes read, write and inference. It stays in this tab.",
      spaces: "Data spaces", noSpaces: "No data space yet: name the first one.", create: "New space", name: "Name of the new space",
      drop: "Drop files or folders here, or press Enter to choose files", types: "PDF, Word, PowerPoint, Excel, CSV, HTML, Markdown, EPUB, mail, pictures, zip …",
      folder: "Choose a folder", stop: "Stop", again: "Try failed ones again", documents: "Documents in this space", filter: "Find a document by name",
      onlyFailed: "only those that failed", thName: "Name", thState: "State", thPassages: "Passages", thSize: "Size", thDo: "Actions",
      open: "Download", remove: "Remove", sure: "Remove “{}”? It answers no more at once.", more: "Show more", none: "No documents yet. Drop some above.", noneFound: "No document is like that.",
      ask: "Ask the documents", question: "Your question", send: "Ask", sources: "Sources", nothing: "Not in the documents.", quoted: "Quoted word for word.",
      computed: "Computed from a table", page: "page {}", lines: "lines {}", waits: "waits", sent: "sent", unchanged: "unchanged", stopped: "stopped", left: "about {} s left", left_min: "about {} min left",
      empty: "Nothing in it yet.", pending: "Changes wait to be taken up.", building: "Being made ready.", ready: "Ready: {} documents, {} passages.", failed: "The last build failed: {}", expired: "This space has expired.",
      failures: "{} could not be read; see below why.",
      states: { pending: "waits", parsing: "is being read", indexed: "answers", failed: "failed", removed: "removed" },
      steps: { documents: "Collecting", parsing: "Reading", cleaning: "Cleaning", indexing: "Indexing", deploying: "Switching over", done: "Done" },
      refused: "This key is not accepted.", gone: "The server does not answer.", askFirst: "The space answers when its first documents are ready.",
    },
    zh: {
      heading: "文档", other: "English", leave: "退出", key: "API 密钥", enter: "继续",
      keyNote: "密钥需具有 read、write、inference 权限，只保存在本标签页中。",
      spaces: "数据空间", noSpaces: "还没有数据空间，请先命名一个。", create: "新建", name: "新数据空间的名称",
      drop: "将文件或文件夹拖到这里，或按回车键选择文件", types: "PDF、Word、PowerPoint、Excel、CSV、HTML、Markdown、EPUB、邮件、图片、zip 等",
      folder: "选择文件夹", stop: "停止", again: "重试失败的文件", documents: "空间中的文档", filter: "按名称查找文档",
      onlyFailed: "仅显示失败的", thName: "名称", thState: "状态", thPassages: "段落", thSize: "大小", thDo: "操作",
      open: "下载", remove: "移除", sure: "要移除“{}”吗？移除后立即不再用于回答。", more: "显示更多", none: "还没有文档，请拖放到上方。", noneFound: "没有这样的文档。",
      ask: "向文档提问", question: "您的问题", send: "提问", sources: "出处", nothing: "文档中没有相关内容。", quoted: "以上为文档原文。",
      computed: "由表格计算得出", page: "第 {} 页", lines: "第 {} 行", waits: "等待中", sent: "已上传", unchanged: "无变化", stopped: "已停止", left: "约剩 {} 秒", left_min: "约剩 {} 分钟",
      empty: "空间中还没有内容。", pending: "有变更等待处理。", building: "正在处理。", ready: "已就绪：{} 个文档，{} 个段落。", failed: "上次构建失败：{}", expired: "此空间已过期。",
      failures: "有 {} 个文档无法读取，原因见下方。",
      states: { pending: "等待中", parsing: "读取中", indexed: "可回答", failed: "失败", removed: "已移除" },
      steps: { documents: "收集", parsing: "读取", cleaning: "清洗", indexing: "建立索引", deploying: "切换", done: "完成" },
      refused: "密钥无效。", gone: "服务器没有响应。", askFirst: "首批文档就绪后即可提问。",
    },
  };
  const AT_ONCE = 2;
  const PAGE = 50;
  const one = (id) => document.getElementById(id);
  // Wherever a proxy has put this server.
  const root = new URL("..", location.href);
  const fill = (form, ...values) => values.reduce((text, value) => text.replace("{}", value), form);

  let language = sessionStorage.getItem("language") ?? (navigator.language?.toLowerCase().startsWith("zh") ? "zh" : "en");
  let words = WORDS[language];
  let key = sessionStorage.getItem("key");
  let csrf = null; // of a session that somebody signed in with
  let space = null;
  let listed = { after: null, items: [] };
  let queue = []; // uploads: {file, path, item, request, state}
  let timer = null;
  let began = null; // of the step that is followed: {step, done, at}

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function fault(text) {
    one("problem").textContent = text ?? "";
    one("problem").hidden = !text;
  }

  // -- the API -----------------------------------------------------------------------------------------------------------

  function headers() {
    if (key) return { authorization: `Bearer ${key}` };
    return csrf ? { "x-csrf-token": csrf } : {};
  }

  async function refusal(response) {
    const body = await response.json().catch(() => null);
    const error = body?.error ?? {};
    const text = [error.message, error.hint].filter(Boolean).join("\n") || `${response.status}`;
    return Object.assign(new Error(text), { status: response.status });
  }

  async function call(path, { method = "GET", body } = {}) {
    let response;
    try {
      response = await fetch(new URL(path, root), {
        method,
        cache: "no-store",
        headers: { ...headers(), ...(body === undefined ? {} : { "content-type": "application/json" }) },
        body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch {
      throw Object.assign(new Error(words.gone), { status: 0 });
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }

  const told = async (path, more) => {
    const response = await call(path, more);
    return response.status === 204 ? null : response.json();
  };
  const here = (more = "") => `api/spaces/${space.id}${more}`;

  // -- who is here -------------------------------------------------------------------------------------------------------

  async function enter() {
    fault("");
    if (!key) {
      // Somebody who has signed in needs no key.
      const session = await told("api/session").catch(() => null);
      csrf = session?.csrf_token ?? null;
    }
    if (!key && !csrf) return show(false);
    try {
      await spaces();
      show(true);
    } catch (error) {
      if (error.status === 401) {
        forgetKey();
        fault(words.refused);
      } else {
        fault(error.message);
      }
      show(false);
    }
  }

  function forgetKey() {
    key = csrf = space = null;
    sessionStorage.removeItem("key");
  }

  function show(isIn) {
    one("enter").hidden = isIn;
    one("work").hidden = !isIn;
    one("leave").hidden = !isIn;
    if (!isIn) one("key").focus();
    document.body.dataset.state = isIn ? "in" : "out";
  }

  // -- spaces ------------------------------------------------------------------------------------------------------------

  async function spaces() {
    const found = [];
    let after = "";
    do {
      const page = await told(`api/spaces?limit=100${after}`);
      found.push(...page.data);
      after = page.has_more ? `&after=${encodeURIComponent(page.last_id)}` : "";
    } while (after && found.length < 1000);
    const list = one("spaces");
    list.textContent = "";
    if (!found.length) list.append(make("li", "note", words.noSpaces));
    for (const each of found) {
      const button = make("button", "", each.name);
      button.type = "button";
      button.append(make("small", "", `${each.documents.indexed} · ${each.state}`));
      if (each.id === space?.id) button.setAttribute("aria-current", "true");
      button.addEventListener("click", () => choose(each).catch((error) => fault(error.message)));
      const item = make("li");
      item.append(button);
      list.append(item);
    }
    const wanted = decodeURIComponent(location.hash.slice(1));
    const named = found.find((each) => each.name === wanted);
    if (!space && named) await choose(named);
  }

  async function choose(chosen) {
    fault("");
    if (space?.id !== chosen.id) one("answers").textContent = one("sent").textContent = "";
    space = chosen;
    began = null;
    history.replaceState(null, "", `#${encodeURIComponent(space.name)}`);
    one("main").hidden = false;
    for (const button of document.querySelectorAll("#spaces button")) button.removeAttribute("aria-current");
    describe();
    await documents();
    await spaces();
    follow();
  }

  function describe() {
    const counts = space.documents;
    one("space-name").textContent = space.name;
    const why = space.error?.message ?? space.build?.error?.message ?? "";
    let text = fill(words[space.state] ?? space.state, space.state === "failed" ? why : counts.indexed, space.num_passages);
    if (counts.failed) text += ` ${fill(words.failures, counts.failed)}`;
    one("state").textContent = text;
    one("state").dataset.state = space.state;
    one("again").hidden = !counts.failed || isMoving();
    const build = space.build;
    const isRunning = build && build.state === "running";
    one("making").hidden = !isRunning;
    if (isRunning) progressed(build);
    one("question").disabled = one("ask-go").disabled = !space.index_version_id;
    one("question").placeholder = space.index_version_id ? words.question : words.askFirst;
  }

  function progressed(build) {
    const { done, total } = build.progress ?? {};
    const bar = one("bar");
    if (total) {
      bar.max = total;
      bar.value = done;
    } else {
      bar.removeAttribute("value");
    }
    let text = words.steps[build.step] ?? build.step;
    if (total) text += ` ${Math.floor(done)} / ${total}`;
    if (began?.step !== build.step || began.build !== build.id) began = { step: build.step, build: build.id, done: done ?? 0, at: Date.now() };
    const passed = (Date.now() - began.at) / 1000;
    const gained = (done ?? 0) - began.done;
    // Said once there is something to reckon with.
    if (total && gained > 0 && passed > 3) {
      const seconds = Math.ceil((passed / gained) * (total - done));
      text += ` · ${seconds > 90 ? fill(words.left_min, Math.ceil(seconds / 60)) : fill(words.left, seconds)}`;
    }
    one("bar-text").textContent = text;
  }

  const isMoving = () => ["pending", "building"].includes(space?.state) || (space?.documents.pending ?? 0) + (space?.documents.parsing ?? 0) > 0;

  function follow() {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      if (!space) return;
      try {
        const before = JSON.stringify([space.documents, space.state, space.index_version_id]);
        const asked = space.id;
        const found = await told(here());
        if (space?.id !== asked) return;
        space = found;
        describe();
        if (JSON.stringify([space.documents, space.state, space.index_version_id]) !== before) {
          await documents();
          await spaces();
        }
      } catch (error) {
        if (error.status) fault(error.message);
      }
      follow();
    }, isMoving() || queue.some((each) => each.state === "sending") ? 1000 : 5000);
  }

  // -- documents ---------------------------------------------------------------------------------------------------------

  async function documents(isMore = false) {
    const about = new URLSearchParams({ limit: String(PAGE) });
    const sought = one("filter").value.trim();
    if (sought) about.set("search", sought);
    if (one("failed").checked) about.set("state", "failed");
    if (isMore && listed.after) about.set("after", listed.after);
    const page = await told(here(`/documents?${about}`));
    const items = isMore ? [...listed.items, ...page.data] : page.data;
    listed = { items, after: page.has_more ? page.last_id : null };
    const rows = one("documents");
    rows.textContent = "";
    for (const each of items) rows.append(row(each));
    one("more").hidden = !listed.after;
    one("none").textContent = items.length ? "" : sought || one("failed").checked ? words.noneFound : words.none;
  }

  function row(each) {
    const line = make("tr");
    line.dataset.state = each.state;
    const name = make("td", "", each.name);
    if (each.key && each.key !== each.name) name.append(make("div", "note", each.key));
    for (const fault of each.faults) {
      const where = fault.page ? `${fill(words.page, fault.page)}: ` : "";
      name.append(make("div", "note wrong", where + [fault.message, fault.hint].filter(Boolean).join(" ")));
    }
    const deeds = make("td", "deeds");
    const open = make("button", "plain", words.open);
    const remove = make("button", "plain", words.remove);
    open.type = remove.type = "button";
    open.setAttribute("aria-label", `${words.open}: ${each.name}`);
    remove.setAttribute("aria-label", `${words.remove}: ${each.name}`);
    open.addEventListener("click", () => download(each).catch((error) => fault(error.message)));
    remove.addEventListener("click", async () => {
      if (!confirm(fill(words.sure, each.name))) return;
      try {
        await call(here(`/documents/${each.id}`), { method: "DELETE" });
        space = await told(here());
        describe();
        await documents();
        one("documents-label").focus();
      } catch (error) {
        fault(error.message);
      }
    });
    deeds.append(open, " ", remove);
    line.append(name, make("td", each.state === "failed" ? "wrong" : "", words.states[each.state] ?? each.state));
    line.append(make("td", "number", String(each.num_passages)), make("td", "number", size(each.num_bytes)), deeds);
    return line;
  }

  function size(bytes) {
    const units = ["B", "kB", "MB", "GB"];
    let place = 0;
    while (bytes >= 1000 && place < units.length - 1) {
      bytes /= 1000;
      place += 1;
    }
    return `${new Intl.NumberFormat(language, { maximumFractionDigits: bytes < 10 && place ? 1 : 0 }).format(bytes)} ${units[place]}`;
  }

  // Never opened in this page's name: what a document holds must not run here.
  async function download(each) {
    const response = await call(here(`/documents/${each.id}/content`));
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([await response.blob()], { type: "application/octet-stream" }));
    link.download = each.name.split("/").pop();
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  // -- putting in --------------------------------------------------------------------------------------------------------

  function entries(reader) {
    return new Promise((resolve, reject) => reader.readEntries(resolve, reject));
  }

  async function* walked(entry, folder = "") {
    if (entry.name.startsWith(".")) return;
    if (entry.isFile) {
      yield { file: await new Promise((resolve, reject) => entry.file(resolve, reject)), path: folder + entry.name };
      return;
    }
    const reader = entry.createReader();
    for (let some = await entries(reader); some.length; some = await entries(reader)) {
      for (const each of some) yield* walked(each, `${folder}${entry.name}/`);
    }
  }

  function put(file, path) {
    // Hidden files are left out, as the command line does.
    if (path.split("/").some((part) => part.startsWith("."))) return;
    const item = make("li");
    const bar = make("progress");
    bar.max = 1;
    bar.value = 0;
    bar.setAttribute("aria-label", path);
    const note = make("span", "note", words.waits);
    item.append(bar, make("span", "", path), note);
    one("sent").prepend(item);
    queue.push({ file, path, bar, note, item, space: space.id, state: "waiting", request: null });
    next();
  }

  function next() {
    one("stop").hidden = !queue.some((each) => each.state === "waiting" || each.state === "sending");
    while (queue.filter((each) => each.state === "sending").length < AT_ONCE) {
      const each = queue.find((one) => one.state === "waiting");
      if (!each) return;
      send(each);
    }
  }

  // XMLHttpRequest, as fetch does not tell how much was sent.
  function send(each) {
    const form = new FormData();
    form.append("key", each.path);
    form.append("name", each.path);
    form.append("file", each.file, each.file.name);
    const request = new XMLHttpRequest();
    each.request = request;
    each.state = "sending";
    each.note.textContent = "";
    request.open("POST", new URL(`api/spaces/${each.space}/documents`, root));
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) each.bar.value = event.loaded / event.total;
    });
    const end = (state, text, isWrong) => {
      each.state = state;
      each.note.textContent = text;
      each.note.classList.toggle("wrong", Boolean(isWrong));
      one("stop").hidden = !queue.some((other) => other.state === "waiting" || other.state === "sending");
      follow();
      next();
    };
    request.addEventListener("load", () => {
      let body = null;
      try {
        body = JSON.parse(request.responseText);
      } catch {
        // What a proxy says is no JSON.
      }
      if (request.status < 300) {
        each.bar.value = 1;
        end("sent", body?.change === "unchanged" ? words.unchanged : words.sent);
      } else {
        end("failed", [body?.error?.message ?? request.status, body?.error?.hint].filter(Boolean).join(" "), true);
      }
    });
    request.addEventListener("error", () => end("failed", words.gone, true));
    request.addEventListener("abort", () => end("stopped", words.stopped));
    request.send(form);
  }

  one("stop").addEventListener("click", () => {
    for (const each of queue) {
      if (each.state === "waiting") {
        each.state = "stopped";
        each.note.textContent = words.stopped;
      } else if (each.state === "sending") {
        each.request.abort();
      }
    }
    next();
  });
  one("again").addEventListener("click", async () => {
    try {
      space = await told(here("/build"), { method: "POST" });
      describe();
      follow();
    } catch (error) {
      fault(error.message);
    }
  });

  const drop = one("drop");
  drop.addEventListener("click", () => one("files").click());
  drop.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      one("files").click();
    }
  });
  one("pick-folder").addEventListener("click", () => one("folder").click());
  for (const input of [one("files"), one("folder")]) {
    input.addEventListener("change", () => {
      for (const file of input.files) put(file, file.webkitRelativePath || file.name);
      input.value = "";
    });
  }
  // Anywhere on the page: a file that misses its place must not replace the page.
  for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
  window.addEventListener("dragover", () => drop.classList.add("over"));
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  window.addEventListener("drop", async (event) => {
    drop.classList.remove("over");
    if (!space) return;
    // Read at once: the list is empty after the first wait.
    const things = [...event.dataTransfer.items].filter((each) => each.kind === "file");
    const found = things.map((each) => each.webkitGetAsEntry?.() ?? each.getAsFile());
    try {
      for (const each of found.filter(Boolean)) {
        if (each instanceof File) put(each, each.name);
        else for await (const { file, path } of walked(each)) put(file, path);
      }
    } catch (error) {
      fault(error.message);
    }
  });

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
      for (const block of blocks) if (block.startsWith("data: {")) yield JSON.parse(block.slice(6));
    }
  }

  function place(citation) {
    const found = [...(citation.headings ?? [])];
    if (citation.page) found.push(fill(words.page, citation.page));
    if (citation.cells) found.push(citation.cells);
    return found.length ? ` (${found.join(" › ")})` : "";
  }

  function rowsOf(table) {
    const whole = make("table");
    const head = make("tr");
    for (const { name, unit } of table.columns) head.append(make("th", "", unit ? `${name} (${unit})` : name));
    whole.append(head);
    for (const each of table.rows) {
      const line = make("tr");
      for (const cell of each) line.append(make("td", "", cell === null ? "" : String(cell)));
      whole.append(line);
    }
    return whole;
  }

  function sourced(element, annotations, grounding) {
    if (grounding?.status === "quoted") element.append(make("p", "note", words.quoted));
    const table = grounding?.table;
    if (table) {
      const details = make("details");
      details.append(make("summary", "", `${words.computed}: ${table.filename}`), make("pre", "", table.sql), rowsOf(table));
      element.append(details);
    }
    if (!annotations.length) return;
    element.append(make("p", "note", words.sources));
    const list = make("ol", "sources");
    const seen = new Set();
    for (const each of annotations) {
      const { filename, citation } = each.file_citation;
      if (seen.has(citation.number)) continue;
      seen.add(citation.number);
      const item = make("li");
      item.value = citation.number;
      item.append(make("span", "", filename + place(citation)));
      if (citation.quote) item.append(make("q", "", citation.quote));
      list.append(item);
    }
    element.append(list);
  }

  async function ask(question) {
    fault("");
    const asked = make("p", "asked", question);
    const answer = make("div", "answer");
    const text = make("span");
    answer.append(text);
    answer.setAttribute("aria-busy", "true");
    one("answers").prepend(asked, answer);
    one("ask-go").disabled = true;
    try {
      const body = { model: `space:${space.name}`, stream: true, messages: [{ role: "user", content: question }] };
      const annotations = [];
      let grounding = null;
      for await (const event of events(await call("v1/chat/completions", { method: "POST", body }))) {
        if (event.error) throw new Error(event.error.message);
        const delta = event.choices?.[0]?.delta ?? {};
        if (delta.content) text.append(delta.content);
        annotations.push(...(delta.annotations ?? []));
        grounding = delta.grounding ?? grounding;
      }
      if (!text.textContent) text.textContent = words.nothing;
      // The query and its rows are shown below, not as the text that programs get.
      if (grounding?.table) text.textContent = text.textContent.split("\n\n```")[0];
      sourced(answer, annotations, grounding);
      document.body.dataset.answers = String(Number(document.body.dataset.answers ?? 0) + 1);
    } catch (error) {
      asked.remove();
      answer.remove();
      one("question").value ||= question;
      fault(error.message);
    } finally {
      answer.removeAttribute("aria-busy");
      one("ask-go").disabled = false;
    }
  }

  one("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const question = one("question").value.trim();
    if (!question || one("ask-go").disabled) return;
    one("question").value = "";
    ask(question);
  });
  one("question").addEventListener("keydown", (event) => {
    // Enter that ends a word of an input method sends nothing.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      one("ask").requestSubmit();
    }
  });

  // -- the rest ----------------------------------------------------------------------------------------------------------

  one("enter").addEventListener("submit", (event) => {
    event.preventDefault();
    key = one("key").value.trim();
    one("key").value = "";
    sessionStorage.setItem("key", key);
    enter();
  });
  one("leave").addEventListener("click", async () => {
    if (csrf && !key) await call("api/session", { method: "DELETE" }).catch(() => null);
    forgetKey();
    location.hash = "";
    location.reload();
  });
  one("create").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const made = await told("api/spaces", { method: "POST", body: { name: one("name").value.trim() } });
      one("name").value = "";
      await choose(made);
      one("drop").focus();
    } catch (error) {
      fault(error.message);
    }
  });
  one("more").addEventListener("click", () => documents(true).catch((error) => fault(error.message)));
  let soon = null;
  one("filter").addEventListener("input", () => {
    clearTimeout(soon);
    soon = setTimeout(() => documents().catch((error) => fault(error.message)), 250);
  });
  one("failed").addEventListener("change", () => documents().catch((error) => fault(error.message)));
  window.addEventListener("beforeunload", (event) => {
    if (queue.some((each) => each.state === "waiting" || each.state === "sending")) event.preventDefault();
  });
  one("language").addEventListener("click", () => {
    language = language === "en" ? "zh" : "en";
    sessionStorage.setItem("language", language);
    speak();
    if (space) {
      describe();
      documents().catch((error) => fault(error.message));
      spaces().catch((error) => fault(error.message));
    }
  });

  function speak() {
    words = WORDS[language];
    document.documentElement.lang = language;
    document.title = `${words.heading} · Modelworks`;
    const texts = {
      heading: "heading", language: "other", leave: "leave", "key-label": "key", "key-go": "enter", "key-note": "keyNote",
      "spaces-label": "spaces", "name-label": "name", "create-go": "create", "drop-text": "drop", "drop-note": "types", "pick-folder": "folder",
      stop: "stop", again: "again", "ask-label": "ask", "question-label": "question", "ask-go": "send", "documents-label": "documents",
      "filter-label": "filter", "failed-label": "onlyFailed", "th-name": "thName", "th-state": "thState", "th-passages": "thPassages",
      "th-size": "thSize", "th-do": "thDo", more: "more",
    };
    for (const [id, name] of Object.entries(texts)) one(id).textContent = words[name];
    one("name").placeholder = words.name;
    one("filter").placeholder = words.filter;
  }

  one("documents-label").tabIndex = -1;
  speak();
  enter();
})();
