"""The style sheet of report.html. Colours are the variables of ``rl.tracking.svg.STYLE``."""

CSS = """
* { box-sizing: border-box; }
html { color-scheme: light dark; background: var(--paper); }
body { margin: 0 auto; max-width: 1180px; padding: 28px 20px 80px; background: var(--paper);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 2px; }
h2 { font-size: 18px; margin: 40px 0 12px; }
h3 { font-size: 15px; margin: 22px 0 8px; }
.sub { color: var(--muted); margin: 0 0 20px; }
.cards { display: flex; flex-wrap: wrap; gap: 10px; }
.card { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px;
  min-width: 130px; }
.card b { display: block; font-size: 21px; }
.card span { color: var(--muted); font-size: 13px; }
.charts { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
.charts figure { margin: 0; background: var(--panel); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px; }
.charts svg { width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 18px 5px 0; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; }
th { color: var(--muted); font-weight: 500; font-size: 13px; }
tr.all td { font-weight: 600; }
details { border: 1px solid var(--line); border-radius: 8px; margin: 8px 0; background: var(--panel); }
summary { cursor: pointer; padding: 8px 14px; }
.tag { display: inline-block; margin-left: 8px; padding: 0 9px; font-size: 12px; color: var(--muted);
  border: 1px solid var(--line); border-radius: 99px; }
.good { color: var(--c2); border-color: var(--c2); }
.bad { color: var(--c6); border-color: var(--c6); }
.talk { padding: 4px 14px 14px; }
.msg { border-left: 3px solid var(--line); padding: 2px 0 2px 12px; margin: 10px 0; }
.msg .who { font-size: 12px; color: var(--muted); }
.msg pre { margin: 2px 0; white-space: pre-wrap; overflow-wrap: anywhere;
  font: 13px/1.45 ui-monospace, monospace; }
.assistant { border-color: var(--c0); }
.user { border-color: var(--c4); }
.tool { border-color: var(--c2); }
.think { color: var(--muted); font-style: italic; }
.call { color: var(--c5); }
.wrong { color: var(--c6); }
.cfg pre { padding: 0 14px 14px; margin: 0; font: 12px/1.45 ui-monospace, monospace; overflow-x: auto; }
""".strip()
