// What the page says, in two languages.
const WORDS = {
  en: {
    title: "Weather", key: "API key", enter: "Enter", keyHint: "Kept in this tab only, and sent to this server alone. Needs the scope read; write to start forecasts.",
    forecasts: "Forecasts", empty: "No forecast yet. Start one below.", start: "Start a forecast", model: "Model", initial: "Data set of initial states",
    steps: "Steps", members: "Members (0: none)", finer: "Downscaling model (optional)", area: "Area", wholeField: "whole field", region: "finer region", downscaled: "made finer", begin: "Start", variable: "Variable", level: "Level", wind: "Wind particles", ofMembers: "members",
    play: "Play", pause: "Pause", mapHint: "Click the map, or move the cursor with the arrow keys, for a meteogram.", meteogram: "Meteogram", scorecard: "Skill by lead time",
    baseline: "Against", noScores: "This model was not evaluated here.", noPlace: "No place is chosen.", cancel: "Cancel", licence: "Licence: ", noLicence: "Licence not stated",
    mean: "Mean", plume: "shaded: 10 to 90 % of the members", rmse: "RMSE", hours: "h", surface: "surface", map: "Map of", time: "Time",
    scoreHint: "RMSE of the model, and its change against the baseline. Coloured only where the interval excludes no difference: green better, red worse.",
    tracks: "Cyclone tracks", noTracks: "none", tracksTold: (count, cone) => `${count} ${count === 1 ? "cyclone" : "cyclones"}${cone ? `; circles held the centre in ${cone} % of past cases` : ""}`,
    noTracksFile: "This run has no tracks.", begun: "The forecast was queued.", cancelling: "The forecast is being cancelled.",
    noMap: "This forecast has no map. It was made before pages, or is too large.", failed: "Failed", unreachable: "The server does not answer.",
    persistence: "persistence", climatology: "climatology", damped_persistence: "damped persistence", ridge: "ridge regression",
    states: { queued: "queued", running: "running", succeeded: "done", failed: "failed", cancelled: "cancelled", paused: "paused", validating_files: "checked" },
  },
  zh: {
    title: "天气预报", key: "API 密钥", enter: "进入", keyHint: "仅保存在此标签页，只发送到本服务器。需要 read 权限；启动预报需要 write 权限。",
    forecasts: "预报列表", empty: "还没有预报，请在下方启动。", start: "启动预报", model: "模型", initial: "初始场数据集",
    steps: "步数", members: "集合成员（0 为无）", finer: "降尺度模型（可选）", area: "范围", wholeField: "整个场", region: "加密区域", downscaled: "已降尺度", begin: "启动", variable: "变量", level: "层次", wind: "风场粒子", ofMembers: "个成员",
    play: "播放", pause: "暂停", mapHint: "点击地图，或用方向键移动光标，可查看该处的时间序列。", meteogram: "气象时序图", scorecard: "各时效预报技巧",
    baseline: "对比基线", noScores: "此模型尚未在此评估。", noPlace: "尚未选择地点。", cancel: "取消", licence: "许可证：", noLicence: "未注明许可证",
    mean: "平均", plume: "阴影：集合成员的 10% 至 90%", rmse: "均方根误差", hours: "小时", surface: "地面", map: "地图：", time: "时间",
    scoreHint: "模型的均方根误差，及其相对基线的变化。仅当置信区间不含零时着色：绿色更好，红色更差。",
    tracks: "气旋路径", noTracks: "不显示", tracksTold: (count, cone) => `${count} 个气旋${cone ? `；圆圈在 ${cone}% 的历史个例中包含了气旋中心` : ""}`,
    noTracksFile: "此运行没有路径。", begun: "预报已排队。", cancelling: "正在取消预报。",
    noMap: "此预报没有地图：生成较早或数据过大。", failed: "失败", unreachable: "服务器没有应答。",
    persistence: "持续性", climatology: "气候态", damped_persistence: "衰减持续性", ridge: "岭回归",
    states: { queued: "排队中", running: "运行中", succeeded: "完成", failed: "失败", cancelled: "已取消", paused: "已暂停", validating_files: "检查中" },
  },
};
let language = (new URLSearchParams(location.search).get("language") ?? navigator.language ?? "en").startsWith("zh") ? "zh" : "en";
export const word = (name) => WORDS[language][name] ?? name;
const NAMES = { msl: "海平面气压", sp: "地面气压", t2m: "2 米气温", d2m: "2 米露点", u10: "10 米东西风", v10: "10 米南北风", z: "位势", t: "气温", u: "东西风", v: "南北风", q: "比湿", tp: "降水量" };
export const titleOf = (channel) => (language === "zh" && NAMES[channel.variable]) || channel.title;
export const spoken = () => language;
export function speak(chosen = language) {
  language = chosen;
  document.documentElement.lang = chosen;
  document.title = word("title");
  for (const element of document.querySelectorAll("[data-word]")) element.textContent = word(element.dataset.word);
  const other = document.getElementById("language");
  other.textContent = chosen === "zh" ? "English" : "中文";
  other.lang = chosen === "zh" ? "en" : "zh";
}
