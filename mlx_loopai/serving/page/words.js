// What the page says, in Korean and in English.
"use strict";
const WORDS = {
  ko: {
    empty: "무엇을 써 볼까요?", prompt: "여기에 요청을 적어 주세요", send: "보내기", stop: "멈추기 (Esc)", new: "새 대화", other: "English",
    key: "서버의 키 (MLX_LOOPAI_API_KEY)", purity: "한글 비율", masked: "한글이 아니어서 막은 비율", overruled: "모델의 첫 선택을 바꾼 비율", tokens: "토큰",
    speed: "토큰/초", length: "길이 제한으로 끊김", content_filter: "필터가 모두 지움", stopped: "멈춤", reached: "정한 길이까지 씀", edited: "고친 글", failed: "오류",
    lost: "서버에 연결할 수 없습니다", left: "페이지를 닫아서 끊김", writing: "쓰는 중입니다", characters: "자", unspaced: "공백 빼고",
    dropped: "길어서 모델에 보내지 않은 앞의 글:", sources: "참고한 글",
    chats: "대화", list: "대화 목록", remove: "지우기", sure: "정말 지우기", markdown: "Markdown으로 저장", rows: "모든 대화를 JSONL로 저장",
    norows: "끝까지 쓴 답이 아직 없습니다", full: "브라우저의 저장 공간이 찼습니다. 대화를 파일로 저장한 뒤 오래된 대화를 지워 주세요.",
    copy: "복사", copied: "복사했습니다", edit: "고치기", again: "다시 쓰기", more: "이어 쓰기", save: "저장", ask: "고쳐서 묻기", cancel: "취소",
    earlier: "이전 글", later: "다음 글", genre: "장르", nogenre: "장르 없음", size: "글의 길이", free: "모델에 맡김", script: "쓸 수 있는 글자",
    usual: "한국어 (굳은 외래어, 괄호 속 한자는 허용)", hangul: "한글만", english: "한글과 영어", all: "제한 없음 (다른 언어가 섞일 수 있음)",
    server: "서버에서 정한 대로", temperature: "자유로움 (온도)", system: "모든 요청에 앞서 하는 부탁 (시스템 프롬프트)", you: "나", settings: "글 설정",
    answering: "답하는 모델", beside: "나란히 비교", pick: "이 글 고르기", good: "좋은 답", bad: "나쁜 답", judged: "평가를 남겼습니다",
    unjudged: "평가를 남기지 못했습니다", add: "그림 넣기 (여기에 끌어다 놓아도 됩니다)", picture: "그림", nopicture: "그림으로 읽을 수 없는 파일입니다",
    blind: "이 모델은 글만 읽습니다. 그림을 보는 모델로 서버를 시작해 주세요.", unrowed: "그림이 있는 대화는 JSONL에 넣지 않았습니다.",
  },
  en: {
    empty: "What would you like to have written?", prompt: "Write your request here", send: "Send", stop: "Stop (Esc)", new: "New chat",
    other: "한국어", key: "The server's key (MLX_LOOPAI_API_KEY)", purity: "Hangul", masked: "masked probability",
    overruled: "first choices overruled", tokens: "tokens", speed: "tokens/s", length: "cut at the length limit", content_filter: "the filter left nothing", stopped: "stopped",
    reached: "written to the length you chose", edited: "edited", failed: "Error", lost: "the server cannot be reached",
    left: "cut when the page was closed", writing: "Writing", characters: " characters", unspaced: "without spaces",
    dropped: "earlier texts that were too long to send:", sources: "Sources",
    chats: "Conversations", list: "List of conversations", remove: "Delete", sure: "Really delete", markdown: "Save as Markdown",
    rows: "Save all as JSONL", norows: "there is no finished answer yet",
    full: "The browser's store is full. Save your conversations as files and delete old ones.",
    copy: "Copy", copied: "Copied", edit: "Edit", again: "Write again", more: "Continue", save: "Save", ask: "Ask this instead", cancel: "Cancel",
    earlier: "Earlier text", later: "Later text", genre: "Genre", nogenre: "no genre", size: "Length", free: "up to the model", script: "Letters it may use",
    usual: "Korean (loanwords, and Hanja in parentheses)", hangul: "Hangul only", english: "Hangul and English",
    all: "no limit (other languages may mix in)", server: "as the server is set", temperature: "Freedom (temperature)",
    system: "What holds for every request (system prompt)", you: "Me", settings: "Settings",
    answering: "Model that answers", beside: "Compare side by side", pick: "Pick this one", good: "Good answer", bad: "Bad answer",
    judged: "Your judgement is kept", unjudged: "Your judgement could not be kept",
    add: "Show a picture (or drop one here)", picture: "Picture", nopicture: "this file cannot be read as a picture",
    blind: "This model reads text only. Start the server with a model that sees.",
    unrowed: "Conversations with pictures are not in the JSONL file.",
  },
};
let language = "ko";
const word = (name) => WORDS[language][name];
