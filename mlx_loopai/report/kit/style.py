"""The style sheet of every report: system fonts with Hangul, light and dark, wide and narrow."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;
--bg:#f6f7f9;--card:#fff;--ink:#1b2230;--soft:#5b6577;--line:#dfe3ea;--track:#e8ebf0;
--good:#0b7a4b;--good-bg:#e3f5ec;--bad:#b3261e;--bad-bg:#fdeceb;--open:#7a5b00;--open-bg:#fff5d6;
--c0:#7a8496;--c1:#d2541b;--c2:#0f7c8a;--c3:#6d4bd0;--c4:#b8327f;--c5:#5f7d0c;--c6:#2563c9;--c7:#8a6100;
--k-han:#ffd9d6;--k-kana:#ffe2c2;--k-cyrillic:#e5dcff;--k-script:#d8e9ff;--k-latin:#fff0ad;--k-markup:#d9f0d8;
--k-emoji:#f6d9ee;--k-hidden:#d5dae2;--k-ink:#24130f}
@media (prefers-color-scheme:dark){:root{
--bg:#12151b;--card:#1b2028;--ink:#e8ebf1;--soft:#9ba6b8;--line:#303744;--track:#2b323e;
--good:#5fd69a;--good-bg:#12342a;--bad:#ff9088;--bad-bg:#3d1e1f;--open:#f0cd6a;--open-bg:#37300f;
--c0:#98a3b5;--c1:#ff8a50;--c2:#45c0cf;--c3:#a88bff;--c4:#f07fbb;--c5:#a9c94b;--c6:#79a9ff;--c7:#dcae4a;
--k-han:#7d302b;--k-kana:#764618;--k-cyrillic:#4b3b86;--k-script:#264b7a;--k-latin:#625213;--k-markup:#28552a;
--k-emoji:#6b2f5b;--k-hidden:#4a5364;--k-ink:#fff4f0}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);line-height:1.6;font-size:16px;
font-family:system-ui,-apple-system,"Apple SD Gothic Neo","Pretendard","Noto Sans KR","Noto Sans CJK KR",
"Malgun Gothic",sans-serif}
[lang=ko]{word-break:keep-all;overflow-wrap:anywhere}
body{position:relative}
main{max-width:1120px;margin:0 auto;padding:28px 20px 64px}
h1,h2,h3,h4,p,figure,dl,dd,ul{margin:0}
h1{font-size:2rem;line-height:1.2;letter-spacing:-.02em}
h2{font-size:1.35rem;letter-spacing:-.01em;margin:0 0 14px}
h3{font-size:1.02rem}
h4{font-size:.92rem;display:flex;flex-wrap:wrap;align-items:center;gap:6px;margin-bottom:8px}
small,.note,.subtitle,.brand{color:var(--soft)}
small{font-size:.78rem;font-weight:400}
.brand{font-weight:700;letter-spacing:.04em;font-size:.85rem}
.subtitle{margin-top:6px;overflow-wrap:anywhere}
.ko,#ko:checked~main .en{display:none}
#ko:checked~main .ko{display:inline}
.pick{position:absolute;opacity:0}
.languages{position:absolute;top:22px;right:max(20px,calc(50% - 540px));display:flex;border:1px solid var(--line);
border-radius:99px;overflow:hidden;font-size:.85rem;background:var(--card)}
.languages label{padding:3px 13px;cursor:pointer;color:var(--soft)}
#en:checked~.languages [for=en],#ko:checked~.languages [for=ko]{background:var(--c6);color:var(--bg);font-weight:600}
.pick:focus-visible~.languages{outline:2px solid var(--c6);outline-offset:2px}
.note{font-size:.85rem;margin-top:10px}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin-top:14px;font-size:.9rem}
a{color:var(--c6)}
section{margin-top:44px;scroll-margin-top:12px}
.banner{border-radius:14px;padding:20px 22px;border-left:6px solid;margin-bottom:16px}
.headline{font-size:1.4rem;line-height:1.35;font-weight:700;letter-spacing:-.01em}
.banner.pass{background:var(--good-bg);border-color:var(--good)}
.banner.fail{background:var(--bad-bg);border-color:var(--bad)}
.banner.open{background:var(--open-bg);border-color:var(--open)}
.caveat{background:var(--open-bg);border-radius:10px;padding:10px 14px;margin-bottom:12px}
.grid{display:grid;gap:14px;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));margin-bottom:14px}
.grid.even{grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr))}
.grid.wide{grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr))}
.card,figure{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px;min-width:0}
figure{margin-bottom:14px}
.grid figure{margin-bottom:0}
.card p{margin-top:10px;font-size:.93rem}
.card h3{display:flex;flex-wrap:wrap;align-items:center;gap:8px;overflow-wrap:anywhere}
.bigs{display:grid;grid-auto-flow:column;grid-auto-columns:1fr;gap:14px;margin:14px 0 4px}
.big b{display:block;font-size:1.5rem;line-height:1.2;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.meter{display:block;height:6px;border-radius:3px;background:var(--track);margin:6px 0;overflow:hidden}
.reasons{color:var(--bad);font-size:.9rem;padding-left:18px;margin-top:10px}
.chip{display:inline-block;font-size:.75rem;font-weight:600;border-radius:99px;padding:1px 9px;white-space:nowrap}
.chip.pass{color:var(--good);background:var(--good-bg)}
.chip.fail{color:var(--bad);background:var(--bad-bg)}
.chip.fault{color:var(--bad);border:1px solid;padding:0 8px}
.dot{display:inline-block;width:.72em;height:.72em;border-radius:50%;background:var(--c);margin-right:.45em;flex:none}
h3 .dot,h4 .dot{margin-right:0}
.c0{--c:var(--c0)}.c1{--c:var(--c1)}.c2{--c:var(--c2)}.c3{--c:var(--c3)}
.c4{--c:var(--c4)}.c5{--c:var(--c5)}.c6{--c:var(--c6)}.c7{--c:var(--c7)}
.fill{display:block;height:100%;background:var(--c);border-radius:3px}
.fill.over{--c:var(--bad)}
.sideways{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:12px;
-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:8px 12px;text-align:right;white-space:nowrap;border-bottom:1px solid var(--line);vertical-align:top}
tbody tr:last-child>*{border-bottom:0}
thead>tr>*{background:var(--track)}
th[scope=row],thead td{text-align:left;font-weight:600;position:sticky;left:0;background:var(--card)}
thead td{background:var(--track)}
th small,td small{display:block}
th[scope=row] small{white-space:normal;max-width:15em;line-height:1.35}
td.bad{color:var(--bad);font-weight:700}
table.settings th,table.settings td{font-size:.86rem;padding:6px 14px}
table.settings td{white-space:normal;min-width:9em;overflow-wrap:anywhere}
table.settings th[scope=row]{font-weight:400;font-family:var(--mono)}
.bar{display:grid;grid-template-columns:5.6em 1fr 2.9em 4.4em;align-items:center;gap:8px;margin-top:9px;
font-size:.86rem;font-variant-numeric:tabular-nums}
.bar.counted{grid-template-columns:7.5em 1fr 3.6em}
.who{overflow:hidden;text-overflow:ellipsis;white-space:nowrap}
.value{text-align:right;font-weight:600}
.churn{color:var(--soft);font-size:.74rem;white-space:nowrap}
.track{display:block;position:relative;height:12px;border-radius:3px;background:var(--track)}
.track.tall{height:20px;margin-top:10px}
.at{position:absolute;top:-3px;bottom:-3px;width:0;border-left:2px solid var(--ink)}
.at.chance{border-left:2px dotted var(--soft)}
.split{display:grid;gap:16px;align-items:start}
@media (min-width:1000px){.split{grid-template-columns:minmax(0,1.4fr) minmax(0,1fr)}
.split .scatter{position:sticky;top:14px}}
.scatter{max-width:640px;margin:0}
svg{display:block;width:100%;height:auto;margin-top:8px;overflow:visible}
svg text{font-size:12px;fill:var(--soft);font-family:inherit;font-variant-numeric:tabular-nums}
svg .name{fill:var(--c);font-weight:700;font-size:13px;paint-order:stroke;stroke:var(--card);stroke-width:4px}
.gridline{stroke:var(--line);stroke-width:1}
.axis-line{stroke:var(--soft);stroke-width:1}
.curve{fill:none;stroke:var(--c);stroke-width:2.2;stroke-linejoin:round;stroke-linecap:round}
.curve.faint{stroke-width:1;opacity:.38}
svg .dot{fill:var(--c)}
.band{fill:var(--track);opacity:.6}
.boundary,.floor{stroke:var(--soft);stroke-width:1;stroke-dasharray:3 3}
.good-zone{fill:var(--good-bg)}
.spot{fill:var(--c);stroke:var(--card);stroke-width:2}
.spot.hollow{fill:var(--card);stroke:var(--c)}
.whisker{stroke:var(--c);stroke-width:2;stroke-linecap:round}
.flaw{stroke:var(--bad);stroke-width:2}
.clean{margin-bottom:18px}
.legend{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:6px 18px;margin-bottom:18px;font-size:.9rem}
mark{border-radius:3px;padding:0 2px;color:var(--k-ink);-webkit-box-decoration-break:clone;box-decoration-break:clone}
.k-han{background:var(--k-han)}.k-kana{background:var(--k-kana)}.k-cyrillic{background:var(--k-cyrillic)}
.k-script{background:var(--k-script)}.k-latin{background:var(--k-latin)}.k-markup{background:var(--k-markup)}
.k-emoji{background:var(--k-emoji)}.k-hidden{background:var(--k-hidden);font-size:.75em}
.exchange{margin-bottom:26px}
.prompt{margin-bottom:10px;padding-left:12px;border-left:3px solid var(--c6);overflow-wrap:anywhere}
.answers{display:grid;gap:12px;grid-auto-flow:column;grid-auto-columns:minmax(250px,1fr);overflow-x:auto;padding-bottom:4px}
.answers .card{border-top:3px solid var(--c)}
.card.faulty{background:linear-gradient(var(--bad-bg),var(--card) 72px)}
.answer{white-space:pre-wrap;overflow-wrap:anywhere;max-height:21em;overflow-y:auto;font-size:.95rem;unicode-bidi:isolate}
h4 small{margin-left:auto}
details{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:10px 16px;margin-top:12px}
summary{cursor:pointer;font-weight:600}
pre,code{font-family:ui-monospace,SFMono-Regular,Menlo,"D2Coding","Noto Sans Mono CJK KR",monospace;font-size:.85rem}
pre{overflow-x:auto;margin:10px 0 0;line-height:1.5}
code{overflow-wrap:anywhere}
.command{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:12px 16px;user-select:all}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:5px 22px;margin-top:14px;
font-variant-numeric:tabular-nums}
dt{color:var(--soft)}
dd{overflow-wrap:anywhere;min-width:0}
.memory,.narrow{max-width:640px}
.memory{margin-top:18px}
figure .legend{margin:8px 0 0}
@media (max-width:640px){
main{padding:20px 14px 48px}
h1{font-size:1.6rem}.headline{font-size:1.2rem}
section{margin-top:34px}
.card,figure{padding:12px}
.big b{font-size:1.25rem}.bigs{gap:10px}
table{font-size:.9rem}
th,td{padding:7px 5px}
td small{white-space:normal}
th[scope=row]{white-space:normal;max-width:6em;overflow-wrap:anywhere}th[scope=row] small{display:none}
table.settings th,table.settings td{padding:6px 5px;font-size:.75rem}
table.settings td{min-width:0}
.answers{grid-auto-flow:row;grid-auto-columns:auto;overflow-x:visible}
.answer{max-height:15em}
.bar{grid-template-columns:5.2em 1fr 2.9em 4.3em;gap:6px}
.languages{top:16px;right:14px}
svg text{font-size:12.5px}
.facts{grid-template-columns:1fr;gap:0}dd{margin-bottom:8px}}
@media print{.answer{max-height:none}nav{display:none}.card,figure{break-inside:avoid}}
"""
