"""What the command line says to a person, in English or Chinese. Help texts and data are not translated.

The English sentence is the key, so a missing translation is readable. `MODELWORKS_LANG` decides, else the locale.
"""

from __future__ import annotations

import os

#: Each sentence with its Chinese form; a test compares the placeholders.
CHINESE = {
    "error:": "错误：",
    "hint:": "提示：",
    "{question} [y/N]": "{question} [y/N]",
    "Nothing was changed.": "未做任何更改。",
    "Nothing here yet.": "这里还没有内容。",
    "This needs a confirmation, and there is nobody to ask.": "此操作需要确认，但当前没有可以应答的终端。",
    "Repeat it with -y, or with --dry-run to see what it would do.": "请加 -y 重新执行，或加 --dry-run 查看会发生什么。",
    "Interrupted.": "已中断。",
    "An unexpected failure: {reason}.": "发生意外故障：{reason}。",
    "Set MODELWORKS_DEBUG=1 to see where it happened, and report it with that text.": (
        "设置 MODELWORKS_DEBUG=1 可查看出错位置，报告问题时请附上该内容。"
    ),
    "Reading {name} …": "正在读取 {name} …",
    "Stage {stage}: run {run} is queued.": "阶段 {stage}：运行 {run} 已排队。",
    "Stage {stage}: run {run} goes on from its checkpoint.": "阶段 {stage}：运行 {run} 从其检查点继续。",
    "Stage {stage}: run {run} has made it already.": "阶段 {stage}：运行 {run} 已完成该阶段。",
    "Source:   {source}": "来源：  {source}",
    "Licence:  {licence}": "许可证：{licence}",
    "Revision: {revision}": "修订版：{revision}",
    "Size:     {size} in {count} files": "大小：  {size}，共 {count} 个文件",
    "not stated": "未声明",
    "unknown": "未知",
    "Fetch it under this licence?": "是否在该许可证下获取？",
    "These would be removed:": "将会移除：",
    "Remove {name} for good?": "永久移除 {name}？",
    "Stop answering under the name {name}?": "停止以名称 {name} 提供服务？",
    "Revoke the key {name}? Whoever uses it is refused at once.": "吊销密钥 {name}？使用者将立即被拒绝。",
    "Read {amount}.": "已读取 {amount}。",
    "Removed {name}.": "已移除 {name}。",
    "Revoked {name}.": "已吊销 {name}。",
    "Uploaded {path} ({size}).": "已上传 {path}（{size}）。",
    "{path} is on the server already.": "{path} 已在服务器上。",
    "Run {run} is queued. Follow it with: modelworks jobs {run} -f": "运行 {run} 已排队。跟踪：modelworks jobs {run} -f",
    "Digest of meaning: {digest}; read back, it agrees: {how}.": "含义摘要：{digest}；读回后一致性：{how}。",
    "Stored {path} as {id}.": "已将 {path} 存储为 {id}。",
    "The run is queued. See: modelworks evals show {eval} {run}": "运行已排队。查看：modelworks evals show {eval} {run}",
    "Run {run} gave the same bytes again.": "运行 {run} 再次得到相同的字节。",
    "Run {run} did not give the same bytes again.": "运行 {run} 未能再次得到相同的字节。",
    "Not as it was: {what} was {then} and is {now}.": "与当时不同：{what} 原为 {then}，现为 {now}。",
    "absent": "不存在",
    "Run {run} succeeded.": "运行 {run} 成功。",
    "Run {run} failed: {reason}": "运行 {run} 失败：{reason}",
    "Run {run} was cancelled.": "运行 {run} 已取消。",
    "Cancel the run? Otherwise it goes on without you.": "要取消该运行吗？否则它会继续在后台进行。",
    "Run {run} goes on. Follow it again with: modelworks jobs {run} -f": (
        "运行 {run} 继续进行。可用以下命令再次跟踪：modelworks jobs {run} -f"
    ),
    "{path} would be uploaded as a data set first.": "会先将 {path} 上传为数据集。",
    "The run was asked to stop.": "已请求停止该运行。",
    "{alias} means {version} now.": "{alias} 现在指向 {version}。",
    "{version} answers {share} of the requests to {name}.": "{version} 现在回答 {name} {share} 的请求。",
    "{name} answers all of its requests itself again.": "{name} 重新自己回答全部请求。",
    "{alias} means {version} already.": "{alias} 已经指向 {version}。",
    "Waiting for {name} to load …": "正在等待 {name} 加载……",
    "{name} is ready.": "{name} 已就绪。",
    "{name} stopped answering; running requests are finished first.": "{name} 已停止服务；进行中的请求会先完成。",
    "The old secret of {name} works for another {time}.": "{name} 的旧密钥仍可使用 {time}。",
    "This is the only time the secret is shown. Keep it safe.": "密钥只显示这一次，请妥善保管。",
    "Talking to {model}. /exit leaves, /clear forgets, Ctrl-C stops an answer.": (
        "正在与 {model} 对话。/exit 退出，/clear 清空历史，Ctrl-C 停止当前回答。"
    ),
    "The capability {name} cannot be loaded: {reason}.": "无法加载能力 {name}：{reason}。",
    "The conversation is forgotten.": "对话历史已清空。",
    "{variable} is no setting and has no effect. Is {meant} meant?": "{variable} 不是设置项，不起作用。是否应为 {meant}？",
    "That line is not UTF-8 and was not sent. Set the terminal to UTF-8.": "该行不是 UTF-8，未发送。请将终端设为 UTF-8。",
    "Take the role of {name} away?": "移除 {name} 的角色？",
    "Disable {name}? Its keys and sessions are refused at once.": "停用 {name}？其密钥和会话将立即被拒绝。",
    "Secret": "密钥",
    "Password": "密码",
    "{count} entries were written; the chain ends at {head}. Note that elsewhere.": (
        "已写入 {count} 条记录；链的末端为 {head}。请在别处记录该值。"
    ),
    "The chain holds: {count} entries, the last is {head}.": "审计链完整：共 {count} 条记录，末端为 {head}。",
    "Set {variable} to an API key where the client runs.": "在客户端运行的环境中，将 {variable} 设为 API 密钥。",
    "{url} is this machine: in a container, name the host instead (--url).": (
        "{url} 指本机：若客户端在容器中，请用 --url 指定宿主机地址。"
    ),
    "It needs: pip install {library}": "需要安装：pip install {library}",
    "Put {variable}=… into ~/.continue/.env: Continue does not read the environment.": (
        "请将 {variable}=… 写入 ~/.continue/.env：Continue 不读取环境变量。"
    ),
    "Restart VS Code, then choose the model in the chat.": "重启 VS Code，然后在聊天中选择该模型。",
    "Give the key in VS Code: Chat: Manage Language Models, the gear of the group Modelworks.": (
        "在 VS Code 中填写密钥：Chat: Manage Language Models，点击 Modelworks 组的齿轮。"
    ),
    "The length of the model is not known: add maxInputTokens and maxOutputTokens.": (
        "模型的上下文长度未知：请自行添加 maxInputTokens 和 maxOutputTokens。"
    ),
    "Unset ANTHROPIC_API_KEY and ANTHROPIC_AUTH_TOKEN in the shell: they go before it.": (
        "请在 shell 中取消 ANTHROPIC_API_KEY 和 ANTHROPIC_AUTH_TOKEN：它们优先生效。"
    ),
    "`/status` in Claude Code shows the address and the model.": "在 Claude Code 中用 `/status` 查看地址和模型。",
    "Open WebUI keeps what it read at its first start: later, change it in its settings of connections.": (
        "Open WebUI 会保留首次启动时读到的值：之后请在其连接设置中修改。"
    ),
    "Source it in the shell that starts Open WebUI (docker run: -e with each name).": (
        "请在启动 Open WebUI 的 shell 中 source 此文件（docker run：用 -e 逐个传入变量名）。"
    ),
    "In Dify: Settings, Model Provider, OpenAI-API-compatible, Add Model.": (
        "在 Dify 中：设置 → 模型供应商 → OpenAI-API-compatible → 添加模型。"
    ),
    "{path} says so already: nothing was changed.": "{path} 已是如此：未做更改。",
    "Written to {path}.": "已写入 {path}。",
    "The former file is kept as {path}.": "原文件保存为 {path}。",
    "{count} of {total} files are new or changed.": "{total} 个文件中有 {count} 个是新增或已更改的。",
    "{change}: {name}": "{change}：{name}",
    "{count} of {total} passages would go; nothing was changed.": "{total} 个段落中有 {count} 个会被去除；未做任何更改。",
    "added": "已添加",
    "updated": "已更新",
    "empty": "空",
    "pending": "等待中",
    "being made": "正在生成",
    "building": "构建中",
    "ready": "已就绪",
    "failed": "失败",
    "expired": "已过期",
    "The build failed: {reason}": "构建失败：{reason}",
    "Learning failed: {reason}": "学习失败：{reason}",
    "Forget {name} for good?": "彻底遗忘 {name}？",
    "Forgetting stopped: {reason}": "遗忘中止：{reason}",
    "Its source {source} may hold it still.": "其来源 {source} 可能仍保留该文档。",
    "The report was written to {path}.": "报告已写入 {path}。",
    "The report holds: {document} was forgotten.": "报告有效：{document} 已被遗忘。",
    "This is the only time the token is shown. Whoever reads the page may read it.": (
        "令牌只显示这一次。能打开该网页的人都能看到它。"
    ),
    "Put this into the page:": "将以下内容放入网页：",
    "Open or send this link:": "打开或发送此链接：",
    "End the publication {name}? Pages that hold it are refused at once.": "结束发布 {name}？使用它的网页将立即被拒绝。",
    "[stopped]": "［已停止］",
    "[the answer reached its length limit]": "［回答达到长度上限］",
}


def language() -> str:
    """`zh` or `en`, by `MODELWORKS_LANG`, then `LC_ALL`, `LC_MESSAGES` and `LANG`."""
    for variable in ("MODELWORKS_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(variable)
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    return "en"


def tr(sentence: str, **values: object) -> str:
    """The sentence in the person's language, with its values filled in."""
    chosen = CHINESE.get(sentence, sentence) if language() == "zh" else sentence
    return chosen.format(**values)
