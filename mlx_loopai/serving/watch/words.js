// What the page says, in both languages.
const WORDS = {
  ko: {
    other: "English", now: "지금", curves: "학습 과정", samples: "읽어 볼 답", notices: "알림",
    none: "다음 저장 때 원래 모델과 학습 중인 모델이 같은 프롬프트에 답합니다.", at: "스텝", base: "원래 모델", tuned: "학습 중인 모델",
    save: "지금 저장", stop: "저장하고 멈추기", sure: "정말 멈출까요?", asked: "이번 스텝이 끝나면 저장합니다.", stopping: "이번 스텝이 끝나면 저장하고 멈춥니다.",
    refused: "요청이 전해지지 않았습니다.", lost: "페이지의 서버에 연결할 수 없습니다.", ended: "학습이 끝났습니다.", dead: "학습이 멈춰 있습니다. --resume으로 이어 갈 수 있습니다.",
    waiting: "시작을 기다리는 중", verdict: "판정", pass: "통과", fail: "미달", unclear: "불확실", little: "데이터가 너무 적음",
    steps: "스텝", left: "전체 남은 시간", to: "~", kept: "남은 일반 능력", loss: "손실", rate: "학습률", memory: "메모리", reward: "보상",
    planned: "계획", peak: "최대", lossnote: "토큰당 내트", keptnote: "1이면 원래 모델 그대로", rewardnote: "1이면 흠이 없는 답", validation: "검증 데이터의 손실", floor: "하한",
    h: "시간", m: "분", s: "초",
  },
  en: {
    other: "한국어", now: "Now", curves: "Training", samples: "Answers to read", notices: "Notices",
    none: "At the next save the base and the model in training answer the same prompts.", at: "Step", base: "Base", tuned: "In training",
    save: "Save now", stop: "Save and stop", sure: "Really stop?", asked: "It saves after this step.", stopping: "It saves and stops after this step.",
    refused: "The request did not get through.", lost: "This page's server cannot be reached.", ended: "Training has ended.", dead: "Training has stopped. --resume continues it.",
    waiting: "Waiting for it to begin", verdict: "Verdict", pass: "pass", fail: "fail", unclear: "unclear", little: "too little data",
    steps: "steps", left: "Whole run, time left", to: " to ", kept: "General ability kept", loss: "Loss", rate: "Learning rate", memory: "Memory", reward: "Reward",
    planned: "plan", peak: "peak", lossnote: "nats per token", keptnote: "1: as the base", rewardnote: "1: answers without a fault", validation: "Loss on held-out rows", floor: "floor",
    h: " h", m: " min", s: " s",
  },
};
let language = document.documentElement.lang === "ko" ? "ko" : "en";
const word = (name) => WORDS[language][name];
