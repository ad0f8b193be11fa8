// The page's own words in English and Arabic. Knows nothing of topics and entities: labels are the model's data.

const WORDS = {
  en: {
    other: "العربية",
    tagline: "What an Arabic news article reports, and who, where and when",
    text: "Article",
    placeholder: "Paste an Arabic news article, or choose a sample",
    count: "Characters: {n}",
    countOf: "Characters: {n} of at most {limit}",
    token: "Token of this service",
    tag: "Tag the article",
    samples: "Samples",
    result: "Result",
    topics: "Topics",
    topicsHint: "Choose a topic to highlight the segments that show it.",
    noTopics: "The article reports none of the model's topics.",
    others: "Not reported",
    uncertain: "uncertain",
    evidence: "segments {segments}",
    article: "Article with evidence and entities",
    articleHint: "Point at an entity or tap it for its label and probability, or press Tab, then the left and right arrows.",
    noEntities: "No entities found.",
    model: "Model: {name}",
    working: "Tagging…",
    done: "Topics reported: {topics}. Entities found: {entities}.",
    chosen: "Segments that show {label}: {n}.",
    released: "Segments that show any topic: {n}.",
    partly: "Characters that the model read: {read} of {all}.",
    empty: "There is no text yet: paste an article or choose a sample.",
    unreachable: "The service cannot be reached. Is it still running?",
    401: "This service asks for a token.",
    413: "The article is too large for this service.",
    422: "The service cannot take this text.",
    503: "The service is busy. Try again in a few seconds.",
    failed: "The service could not do this (status {status}).",
  },
  ar: {
    other: "English",
    tagline: "ماذا يورد الخبر العربي، ومَن وأين ومتى",
    text: "نص الخبر",
    placeholder: "ألصق خبراً باللغة العربية، أو اختر مثالاً",
    count: "عدد الأحرف: {n}",
    countOf: "عدد الأحرف: {n} من {limit} على الأكثر",
    token: "رمز الدخول إلى هذه الخدمة",
    tag: "حلّل الخبر",
    samples: "أمثلة",
    result: "النتيجة",
    topics: "المواضيع",
    topicsHint: "اختر موضوعاً لتمييز المقاطع الدالة عليه.",
    noTopics: "لا يورد الخبر أياً من مواضيع النموذج.",
    others: "مواضيع لم ترد",
    uncertain: "غير مؤكد",
    evidence: "المقاطع {segments}",
    article: "الخبر مع الأدلة والكيانات",
    articleHint: "أشر إلى كيان أو انقره لرؤية تصنيفه واحتماله، أو اضغط Tab ثم السهمين الأيمن والأيسر.",
    noEntities: "لم يُعثر على كيانات.",
    model: "النموذج: {name}",
    working: "جارٍ التحليل…",
    done: "المواضيع الواردة: {topics}. الكيانات: {entities}.",
    chosen: "عدد المقاطع الدالة على {label}: {n}.",
    released: "عدد المقاطع الدالة على أي موضوع: {n}.",
    partly: "عدد الأحرف التي قرأها النموذج: {read} من {all}.",
    empty: "لا يوجد نص بعد: ألصق خبراً أو اختر مثالاً.",
    unreachable: "تعذر الوصول إلى الخدمة. هل ما زالت تعمل؟",
    401: "تطلب هذه الخدمة رمز دخول.",
    413: "الخبر أكبر مما تسمح به هذه الخدمة.",
    422: "لا تقبل الخدمة هذا النص.",
    503: "الخدمة مشغولة. حاول مجدداً بعد ثوانٍ.",
    failed: "تعذر على الخدمة تنفيذ الطلب (الحالة {status}).",
  },
};

// Latin digits in Arabic too: the same numbers stand in the JSON.
const LOCALES = { en: "en", ar: "ar-u-nu-latn" };

/** Gives what says things in a language: `say(key, values)`, `percent(score)`. */
export function speaker(language) {
  const words = WORDS[language];
  const count = new Intl.NumberFormat(LOCALES[language]);
  const share = new Intl.NumberFormat(LOCALES[language], { style: "percent", maximumFractionDigits: 1 });
  const shown = (value) => {
    if (Array.isArray(value)) {
      return value.map(shown).join(" · ");
    }
    return typeof value === "number" ? count.format(value) : isolated(value);
  };
  return {
    has: (key) => key in words,
    say: (key, values = {}) => words[key].replace(/\{(\w+)\}/g, (_, name) => shown(values[name])),
    percent: (score) => share.format(score),
  };
}

// Keeps a label or a message from turning the direction of the sentence around it.
function isolated(value) {
  return `\u2068${value}\u2069`;
}
