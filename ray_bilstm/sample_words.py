# ruff: noqa: E501 (a Chinese character counts as two columns there; no line is longer than 120 characters)
"""The words and rules of the embedded sample (`sample.py`): places, fields, names, and what is said of a person.

Words after a `|` occur in dev and test only. In rules, `{slot}` is a fact, a number (`{1_12}`) or another rule, and
`<TYPE:...>` an entity.
"""

from __future__ import annotations

PLACES = """北京: 上海: 天津: 浙江:绍兴,金华,嘉兴,台州,宁波 江苏:常州,扬州,南通,徐州,无锡 山东:济南,烟台,潍坊,淄博,临沂
广东:佛山,珠海,惠州,汕头,中山 福建:泉州,漳州,莆田,厦门 安徽:芜湖,安庆,合肥,滁州 湖北:宜昌,襄阳,黄石,荆州 湖南:长沙,株洲,岳阳,衡阳
河南:洛阳,新乡,开封,许昌 河北:保定,唐山,沧州 四川:绵阳,宜宾,德阳,乐山 辽宁:大连,鞍山,锦州 陕西:宝鸡,咸阳,汉中 江西:赣州,九江,上饶
| 重庆: 山西:大同,运城,临汾 云南:昆明,曲靖,玉溪 贵州:遵义,安顺,贵阳 甘肃:天水,兰州,酒泉 黑龙江:大庆,佳木斯,牡丹江 海南:海口,三亚"""
MUNICIPALITIES = "北京 上海 天津 重庆"
# field -> (group, trades, majors, faculties, factories where the field has any)
FIELDS = {
    "化工": ("工", "化工 精细化工 化学 涂料 | 石化 农化", "化学工程 应用化学 高分子材料 | 精细化工 环境工程", "化学化工学院 化工系 | 材料学院", "化工厂 化肥厂 涂料厂 | 染料厂"),
    "机械": ("工", "机械 重型机械 汽车零部件 机床 | 轴承 阀门", "机械制造 机械工程 自动化 | 车辆工程 焊接", "机械工程学院 机械系 | 动力学院", "机床厂 农机厂 | 轴承厂 柴油机厂"),
    "电子": ("工", "电子 通信设备 光电 电器 | 半导体", "电子工程 无线电技术 通信工程 | 微电子 光学", "电子工程学院 无线电系 | 信息学院", "无线电厂 电子管厂 | 仪表厂 电视机厂"),
    "软件": ("工", "软件 信息技术 网络科技 | 数据 智能科技", "计算机应用 计算机科学与技术 软件工程 | 信息管理", "计算机学院 计算机系 | 软件学院", ""),
    "建筑": ("工", "建设 建筑工程 房地产开发 置业 | 市政工程", "土木工程 工业与民用建筑 建筑学 | 工程管理 给排水", "建筑学院 土木工程系 | 城市学院", ""),
    "能源": ("工", "电力 能源 水电 矿业 | 燃气 热电 新能源", "电力系统 采矿工程 热能工程 | 水利水电工程", "电气工程学院 能源学院 | 水利系", "发电厂 锅炉厂 | 热电厂"),
    "材料": ("工", "钢铁 有色金属 新材料 水泥 | 特钢 铝业", "金属材料 冶金工程 材料学 | 无机非金属材料", "材料科学与工程学院 冶金系 | 物理学院", "钢铁厂 水泥厂 冶炼厂 | 玻璃厂"),
    "纺织": ("商", "纺织 服装 针织 家纺 | 印染 丝绸", "纺织工程 服装设计 市场营销 | 染整工程 国际商务", "纺织学院 商学院 | 艺术学院", "棉纺厂 针织厂 服装厂 | 印染厂 丝绸厂"),
    "食品": ("商", "食品 乳业 酒业 农业 | 饲料 种业", "食品科学 农学 企业管理 | 畜牧兽医 发酵工程", "食品学院 农学院 | 生命科学学院", "食品厂 酒厂 罐头厂 | 饲料厂"),
    "医药": ("医", "医药 制药 生物制药 医疗器械 | 药业 生物科技", "药学 临床医学 生物化学 | 中药学 药物分析", "药学院 临床医学系 | 基础医学院", "制药厂 | 中药厂"),
    "金融": ("商", "投资 证券 信托 资产管理 | 期货 创业投资", "金融学 会计学 货币银行学 会计 | 投资经济 统计学 财政学", "金融学院 会计学院 | 统计学院 会计系", ""),
    "商贸": ("商", "贸易 商业 物流 百货 | 供应链 进出口", "国际贸易 工商管理 经济学 企业管理 | 市场营销 政治经济学", "经济管理学院 商学院 经济系 | 国际商学院", ""),
    "法律": ("法", "投资 文化传媒 咨询 | 旅游 教育", "法学 民商法 经济法 | 国际法 知识产权", "法学院 法律系 | 政法学院", ""),
}  # fmt: skip
# group -> (what its universities are called, professional titles, certificates)
GROUPS = {
    "工": ("工业 理工 科技 交通 | 邮电 工程 海洋", "助理工程师 工程师 高级工程师 教授级高级工程师 | 正高级工程师 研究员级高级工程师", "注册监理工程师 一级建造师 | 注册安全工程师 注册造价工程师"),
    "商": ("财经 工商 师范 经贸 | 商业 外国语", "助理会计师 会计师 经济师 高级会计师 高级经济师 | 审计师 高级国际商务师", "注册会计师 注册税务师 | 注册资产评估师 国际注册会计师"),
    "医": ("医科 中医药 | 药科", "主管药师 工程师 高级工程师 主治医师 | 副主任药师 主任药师", "执业药师 执业医师 | 执业中药师"),
    "法": ("政法 师范 | 民族", "一级律师 经济师 高级经济师 | 二级律师 高级政工师", "律师 企业法律顾问 | 专利代理人"),
}  # fmt: skip
DEGREES = (  # by level: as a fact of its own; after a subject
    ("大专学历 大专 大专文化程度 专科学历 中专学历 大专文化 | 高中学历 专科毕业", "大专学历 大专 | 专科"),
    (
        "本科学历 大学本科学历 大学学历 大学文化 本科 学士学位 | 大学本科 双学士学位",
        "学士 学士学位 本科学历 | 大学本科学历",
    ),
    (
        "硕士研究生学历 硕士研究生 硕士学位 研究生学历 硕士 | 在职研究生学历 硕士学历",
        "硕士 硕士学位 硕士研究生 | 研究生",
    ),
    ("博士研究生学历 博士研究生 博士学位 博士 博士学历 | 在职博士", "博士 博士学位 博士研究生 | 博士研究生学位"),
)
# kind of organisation -> titles of the young, of the middle and of the top
TITLES = {
    "company": (
        "会计 出纳 技术员 业务员 销售经理 主管会计 秘书 项目经理 工程师 业务主管 | 成本会计 工艺员 采购员 销售代表 客户经理",
        "财务经理 总经理助理 销售总监 副总工程师 财务负责人 总经理秘书 人事经理 生产总监 | 区域经理 技术总监 行政总监 副总会计师 产品经理",
        """董事长 总经理 副总经理 总裁 副总裁 财务总监 总工程师 常务副总经理 执行总裁 副董事长 总会计师
        | 首席执行官 联席总裁 首席财务官 总经济师 运营总监 高级副总裁 总法律顾问""",
    ),
    "factory": ("工人 技术员 会计 统计员 车间主任 | 检验员 描图员", "厂长助理 副总工程师 生产科长 | 供销科长", "厂长 副厂长 总工程师 党委书记 | 总会计师"),
    "bank": ("信贷员 会计 柜员 | 客户经理", "行长助理 信贷科长 | 稽核科长", "行长 副行长 董事长 监事长 | 首席风险官 副董事长"),
    "bureau": ("科员 副科长 科长 | 办事员 主任科员", "处长 副处长 | 副调研员 调研员", "局长 副局长 党组成员 | 党组书记 巡视员"),
    "ministry": ("主任科员 副主任科员 | 科员", "处长 副处长 | 调研员", "部长助理 副部长 党组成员 | 部长"),
    "university": ("助教 讲师 辅导员 | 教师", "副教授 硕士生导师 系主任 | 学科带头人", "教授 博士生导师 副校长 校长 | 校长助理 首席教授"),
    "institute": ("实习研究员 助理研究员 技术员 | 课题组成员", "副研究员 课题组长 工程师 | 高级工程师", "研究员 所长 副所长 总工程师 | 首席科学家"),
    "hospital": ("医师 住院医师 药剂师 | 护士长", "主治医师 科主任 | 副主任药师", "院长 副院长 主任医师 | 副主任医师 业务院长"),
    "lawyers": ("律师助理 律师 | 实习律师", "专职律师 执业律师 | 资深律师", "合伙人 主任 高级合伙人 | 管理合伙人 创始合伙人"),
    "auditors": ("审计助理 审计员 项目经理 | 高级审计员", "部门经理 高级经理 | 授薪合伙人", "合伙人 主任会计师 副主任会计师 所长 | 首席合伙人"),
}  # fmt: skip
DEPARTMENTS = {
    "company": """财务部 人力资源部 市场部 销售部 技术部 质量管理部 采购部 投资部 证券部 法务部 审计部 企划部 国际业务部 综合办公室 总经理办公室
        技术中心 研发中心 营销中心 第一事业部 财务科 深圳分公司 上海分公司 工会 | 风险管理部 战略发展部 信息技术部 物资供应处 党群工作部 海外事业部
        结算中心 总工程师办公室 成都分公司 董事会办公室""",
    "factory": "一车间 机修车间 技术科 财务科 供销科 质检科 厂长办公室 团委 | 动力车间 劳资科 技改办公室 总务科",
    "bank": "信贷部 营业部 计划财务部 国际业务部 城东支行 城南支行 办公室 | 风险管理部 个人金融部 开发区支行",
    "bureau": "办公室 人事处 综合处 计划财务处 法规处 企业处 | 监察室 农业处 政策研究室 国有资产管理处",
    "ministry": "办公厅 人事司 规划财务司 条法司 综合司 | 国际合作司 政策法规司 科技司",
    "university": "{faculty}",
    "institute": "第一研究室 科技处 情报室 办公室 | 试验中心 第三研究室 工艺室",
    "hospital": "内科 外科 药剂科 医务处 | 检验科 骨科 护理部",
}
# the last characters of a department (in a hospital, of any) -> who works there; the second half are the young
HEADS = {
    "hospital": "主任 副主任 主治医师 医师 | 副主任医师",
    "分公司": "总经理 副总经理 经理助理 业务员 | 负责人",
    "事业部": "总经理 副总经理 项目经理 业务主管 | 总监",
    "支行": "行长 副行长 会计 信贷员 | 行长助理",
    "车间": "主任 副主任 技术员 工人 | 工段长",
    "中心": "主任 副主任 总监 工程师 职员 | 常务副主任",
    "办公厅": "主任 副主任 主任科员 科员",
    "工会": "主席 副主席 干事",
    "团委": "书记 副书记 干事",
    "部": "部长 总经理 经理 副部长 副经理 主管 业务主管 | 负责人 经理助理",
    "室": "主任 副主任 秘书 科员 | 主任助理",
    "科": "科长 副科长 科员 | 主任科员",
    "处": "处长 副处长 主任科员 科员 | 调研员",
    "司": "司长 副司长 处长 主任科员 副主任科员 | 巡视员",
    "系": "主任 副主任 教授 讲师 助教 | 党总支书记",
    "院": "院长 副院长 教授 副教授 讲师 助教 | 党委书记",
}
# (track, how far in the career) -> kinds of organisation; `firm`, `office` as the field has it
KINDS = {
    "企业": (
        "factory factory company company bureau office",
        "company company factory office",
        "company company office",
    ),
    "学者": ("university university office factory", "university office", "university university office"),
    "官员": ("bureau bureau ministry factory", "bureau bureau ministry", "bureau ministry company"),
    "专业": ("firm company bureau", "firm firm company", "firm"),
}
# What a slot `{...}` may become; `<TYPE:...>` is an entity. Slots that are not here are methods or facts of a _Resume.
RULES = {
    "last_name": """王 李 张 刘 陈 杨 黄 赵 吴 周 徐 孙 马 朱 胡 郭 何 高 林 罗 郑 梁 谢 宋 唐 许 韩 冯 邓 曹 彭 曾 肖 田 董 袁 潘 于 蒋 蔡 余 杜 叶 程 苏 魏 吕 丁 任
        沈 姚 卢 姜 崔 钟 谭 陆 范 金 石 廖 贾 夏 韦 付 方 白 邹 孟 熊 秦 江 阎 薛 尹 段 侯 史 陶 黎 贺 顾 毛 欧阳 司徒 | 郝 龚 邵 万 钱 覃 武 戴 莫 孔 向 汤 严 温 施 牛 樊
        葛 邢 安 齐 易 乔 伍 庞 颜 倪 庄 聂 章 鲁 翟 殷 詹 申 耿 关 兰 焦 俞 柳 甘 祝 包 上官""",
    "男": "{男甲}{男乙} {男甲}{男乙} {男甲}{男乙} {男单}",
    "男甲": "建 志 国 文 永 海 振 世 俊 晓 宏 光 庆 兴 启 少 家 长 金 新 | 绍 敬 维 承 仲 耀 克",
    "男乙": "华 军 平 峰 林 伟 辉 良 生 明 波 祥 斌 兵 清 忠 | 坤 浩 川 铭 儒 亮 泉",
    "男单": "军 伟 斌 磊 超 涛 锋 俊 彬 健 | 晖 骏 恺 钊 翰 铮",
    "女": "{女甲}{女乙} {女甲}{女乙} {女甲}{女乙} {女单}",
    "女甲": "丽 晓 雅 淑 秀 玉 慧 雪 佳 美 春 文 海 | 婉 静 思 若 凤 亚",
    "女乙": "芳 华 娟 敏 红 萍 琴 玲 燕 梅 霞 英 | 莹 蓉 岚 珍 茹 菁",
    "女单": "静 敏 娟 丽 燕 红 琳 艳 洁 | 璐 颖 倩 妍 晔",
    "relative": "<NAME:{last_name}{男}> <NAME:{last_name}{女}>",
    "kin": "夫妻 表亲 亲属",
    "brand": "{brand_1}{brand_2}",
    "brand_1": "宏 鼎 瑞 泰 恒 盛 嘉 祥 隆 鑫 博 卓 凯 铭 晟 禾 澜 岳 朗 沐 华 天 金 海 新 东 | 骏 昱 桓 钧 翎 璟 屹 星 同 正 亿 远",
    "brand_2": "川 泽 岚 原 图 邦 景 程 越 辰 洲 润 丰 源 茂 峰 阳 创 力 和 达 信 | 珩 舟 沃 彦 森 驰 灵 元 安 来 科 利",
    "form": """股份有限公司 股份有限公司 有限公司 有限公司 有限责任公司 集团有限公司 集团股份有限公司 （集团）股份有限公司 控股有限公司 集团公司 | 控股集团有限公司 （集团）有限责任公司 发展有限公司
        实业总公司""",
    "company": """{at}{brand}{trade}{form} {at}{brand}{trade}{form} {at}{brand}{trade}{form}
        {region}{brand}{trade}{form} {brand}{trade}{form} {at}{own}{trade}{form} {own}{trade}{form}
        {own}（{at}）{trade}有限公司 {brand}（{at}）{trade}有限公司 {brand}{trade}""",
    "workplace": "{main} {company} {company}",
    "factory": "{at}{works} {region}{works} {at}第一{works} {at}第二{works} | {region}第三{works}",
    "bank": "{region}商业银行 {at}银行 {brand}银行{at}分行 {at}城市信用社 | {region}农村信用合作联社",
    "bureau": """{region}财政局 {region}审计局 {region}税务局 {region}统计局 {region}人民政府 {region}发展和改革委员会 {region}经济贸易委员会 |
        {region}国土资源局 {region}科学技术局 {region}物价局 {region}对外贸易委员会""",
    "ministry": "财政部 商务部 水利部 建设部 化学工业部 机械工业部 | 交通运输部 农业部 冶金工业部 信息产业部",
    "university": "{at}{study}大学 {at}{study}大学 {at}{study}大学 {at}大学 {at}{study}学院 | {at}联合大学 {at}城市大学",
    "institute": "{region}{trade}研究所 {region}{trade}研究院 {at}{trade}设计院 | {region}{trade}科学研究所",
    "hospital": "{region}第一人民医院 {region}人民医院 {region}中医院 | {region}中心医院 {region}第三医院",
    "lawyers": "{at}{brand}律师事务所 | {brand}律师事务所{at}分所",
    "auditors": "{at}{brand}会计师事务所 {at}{brand}会计师事务所有限公司 {brand}会计师事务所（特殊普通合伙） {brand}会计师事务所{at}分所",
    "firm_name": "公司 公司 公司 公司 本公司 集团 {own}股份 {own}集团 {own}有限 {main} {main} {main}",
    "side_title": "董事 党委书记 党委委员 执行董事 董事会秘书 法定代表人 工会主席 核心技术人员 | 技术顾问 党委副书记 纪委书记",
    "board_title": "董事 独立董事 监事 职工代表监事 监事会主席 董事会秘书 外部董事 | 非执行董事 候补监事 股东代表监事",
    "board": """<TITLE:{board_title}> <TITLE:第{nth}届董事会董事> <TITLE:第{nth}届董事会独立董事> <TITLE:第{nth}届监事会监事>
        <TITLE:第{nth}届监事会主席> | <TITLE:第{nth}届董事会秘书> <TITLE:第{nth}届监事会职工代表监事>""",
    "org": "<ORG:{company}>",
    "orgs": "{org} {org}、{org} {org}、{org} {org}、{org}、{org} {org}、{org}及{org} {org}、{org}、{org}、{org}、{org}",
    "indep": "{orgs}<TITLE:独立董事> {orgs}<TITLE:独立董事> {orgs}<TITLE:董事> | {orgs}<TITLE:外部董事> {org}<TITLE:独立非执行董事>",
    "society": "<ORG:{society_at}{society_name}><TITLE:{society_title}>",
    "society_at": "中国 全国 {region} {region} {region} {region}",
    "society_name": """{trade}行业协会 {trade}商会 企业家协会 工商业联合会 青年联合会 会计学会 | {trade}工程学会 企业联合会 上市公司协会 法学会""",
    "society_title": "会员 理事 常务理事 副秘书长 会长 副会长 理事长 秘书长 | 专家组成员 名誉会长 监事长 副理事长",
    "congress": "<ORG:{region}人大><TITLE:代表> <ORG:{region}政协><TITLE:委员> <ORG:{region}第{nth}届人民代表大会><TITLE:代表>",
    "visiting": "<TITLE:客座教授> <TITLE:兼职教授> | <TITLE:特聘教授> <TITLE:兼职硕士生导师>",
    "school": "<ORG:{university}> <ORG:{university}> <ORG:{university}{faculty}>",
    "abroad": "<ORG:美国{foreign}州立大学> <ORG:英国{foreign}大学> <ORG:加拿大{foreign}商学院> | <ORG:澳大利亚{foreign}大学>",
    "foreign": "哥林 阿尔文 圣玛利 北岸 Kingsley Fairmont | 麦肯 河谷 格兰顿 Ashford Northgate",
    "subject": "<PRO:{major}> <PRO:{major}专业>",
    "mba": """<PRO:工商管理><EDU:硕士> <PRO:工商管理><EDU:硕士>（<EDU:MBA>） <EDU:EMBA> <EDU:MBA学位> | <PRO:高级管理人员工商管理><EDU:硕士学位>
        <PRO:工商管理><EDU:硕士学位>（<EDU:EMBA>）""",
    "book": "{major}概论 {major}原理 {major}导论 {major}案例分析",
    "letters": """<TITLE:注册会计师>（<TITLE:CPA>） <TITLE:项目管理专家>（<TITLE:PMP>） <TITLE:特许金融分析师>（<TITLE:CFA>） |
        <TITLE:国际注册内部审计师>（<TITLE:CIA>） <TITLE:金融风险管理师>（<TITLE:FRM>）""",
    "race": "<RACE:汉族> <RACE:汉族> <RACE:汉族> <RACE:汉族> <RACE:汉> <RACE:{minority}> <RACE:{minority}>",
    "minority": "回族 满族 蒙古族 壮族 土家族 苗族 朝鲜族 彝族 | 侗族 白族 瑶族 锡伯族 畲族 布依族",
    "party": "<TITLE:中共党员> <TITLE:中共党员> <TITLE:党员> <TITLE:民盟盟员> | <TITLE:无党派人士> <TITLE:九三学社社员> <TITLE:民建会员>",
    "cont": "<CONT:中国国籍> <CONT:中国国籍>，{permit} <CONT:中国国籍>，{permit} <CONT:中国籍> <CONT:中国籍>，{permit}",
    "permit": "无境外永久居留权 无境外居留权 无永久境外居留权 拥有加拿大永久居留权 | 未拥有境外永久居留权 无国外永久居留权 拥有新西兰永久居留权",
    "foreigner": "<CONT:中国香港居民> <CONT:美国国籍> <CONT:加拿大国籍> <CONT:澳大利亚籍> | <CONT:新加坡国籍> <CONT:日本国籍> <CONT:英国籍>",
    "birth": """{born}年出生 {born}年{1_12}月出生 {born}年{1_12}月出生 {born}年{1_12}月生 {born}年{1_12}月{1_28}日出生 出生于{born}年{1_12}月
        {born}年生""",
    "origin": "{loc}人 籍贯{loc} 出生于{loc} 祖籍{loc} | 现居{loc}",
    "award": """{city}劳动模范 {city}优秀企业家 全国优秀科技工作者 {province}科技进步二等奖 {province}五一劳动奖章 全国{trade}行业先进工作者 |
        {province}优秀党务工作者 {city}先进生产者 {province}有突出贡献专家 全国优秀会计工作者 {city}优秀董事长""",
    "nth": "一 二 三 四 五 六 七 八",
    "posts": """{post}、{later}{post} {post}，{later}{post} {post}、{later}{post}、{later}{post}
        {post}，{later}{post}，{later}{post} {post}、{later}{post}、{later}{post}、{later}{post}
        {post}，{later}{post}，{later}{post}，{later}{post}，{later}{post}
        {post}，{later}{post}，{later}{post}，{later}{post}，{later}{post}，{later}{post}，{later}{post}
        {post}、{later}{post}、{later}{post}、{later}{post}、{later}{post}、{later}{post}、{later}{post}""",
    "steps": "{title}、{step} {title}、{step}、{step} {title}、{step}兼{step}",
    # The sections of a résumé. From left to right, `span` and `month` move the clock and `employer` changes the job.
    "opening": """{name}{he}，{facts}。 {name}{he}：{facts}。 {name}：{sex}，{facts}。 {name}，{sex}，{facts}。
        {name}{he}，{age}岁，{facts}，现任{present}。 {name}（{sex}），{facts}。 {firm}{duty}{name}，{sex}，{facts}。
        {name}{he}，{present}。{facts}。 {name}，{duty}。{birth}，{facts}。 {name}：{firm}{duty}，{facts}。
        <TITLE:{board_title}>：{name}，{sex}，{facts}。 {name}{space}{sex}，{rank}，{facts}。
        姓名：{name}，性别：{sex}，民族：{race}，学历：{edu}。 {name}{he}，{loc}人，{birth}，{facts}。 {name}，{sex}，出生于{loc}，{facts}。
        {name}，籍贯{loc}，{facts}。 {name}{he}，{present}，{facts}。 {name}，{sex}，{facts}，{certificate}、{certificate}。""",
    "education": """毕业于{school}{subject}，{rank}。 {graduation}毕业于{school}，获{subject}{degree}。
        {graduation}毕业于{school}{subject}，{edu}。 {school}{subject}{degree}，{rank}。
        {surname}{he}毕业于{school}{subject}，获得{degree}。 {school}{subject}毕业，{edu}，{rank}职称。
        {enrolled}年考入{school}，主修{subject}，毕业后分配至{employer}工作。 {edu}，{subject}，{rank}。
        {surname}{he}先后就读于{school}和{school}。""",
    "studies": """获{school}{subject}{degree}，{abroad}{subject}{degree}。
        {surname}{he}持有{abroad}颁发的{mba}，并具有{certificate}、{certificate}资格。 {school}{subject}{degree}，{abroad}{mba}。
        曾在{abroad}做访问学者，研究方向为{subject}。 {school}{subject}{degree}，{school}{subject}{degree}。
        研究领域包括{subject}、{subject}，在{school}从事教学工作多年。""",
    "career": """{span}任{post}；{span}任{post}；{span}任{post}。 {span}，在{employer}任{title}；{span}，任{post}。
        {span}就职于{employer}，任{title}。 {span}在{employer}工作，历任{steps}。 {span}历任{employer}{steps}，{span}任{post}。
        历任{posts}。 历任{posts}，现任{present}。 曾任{posts}，现任{present}。 曾任{posts}等职。 先后任{posts}，现任{present}。
        曾先后担任{posts}等职务。 {name}{he}曾任{posts}。 {surname}{he}历任{employer}{steps}。 {graduation}参加工作，历任{posts}。
        {month}加入{employer}，先后担任{steps}。 {month}进入{employer}工作，后任{title}。 {month}起历任{posts}，{month}调任{post}。
        {span}担任{org}<TITLE:副总经理>，负责{trade}业务。 {span}为{employer}{title}，{span}为{post}，{since}为{present}。
        {month}创办{org}，任<TITLE:总经理>。 {month}至{employer}工作，任{title}；{month}任{post}。
        {span}，{employer}，{title}；{span}，{employer}，{steps}。
        {span}{space}{post}；{span}{space}{post}；{since}{space}{present}。 {span}先后在{orgs}任职。 {span}从事会计、审计工作，任{post}。
        {span}任教于{school}，{span}任{post}。 {month}因个人原因离职，{month}起任{post}。
        {span}任{employer}{steps}，{span}历任{posts}，现任{present}。""",
    "present": """现任{present}。 现任{present}，兼任{indep}。 {since}任{present}。 {since}担任{firm}{board}。
        {since}任{firm}{board}，任期三年。 {month}当选为{firm}{board}。 {surname}{he}现为{present}。
        现任{firm}{duty}，主要负责{trade}业务及公司治理工作。 现任{firm}{duty}、{indep}。 {name}{he}，{firm}{board}，{since}任{present}。
        经{firm}第{nth}届董事会第{nth}次会议审议通过，聘任{name}{he}为{firm}{duty}。
        因工作变动，{name}{he}于{month}辞去{firm}<TITLE:{board_title}>职务。 {month}起不再担任{post}职务。
        目前在{employer}任{title}，未在{firm}领取薪酬。""",
    "part_time": """兼任{indep}。 同时兼任{society}、{society}。 现兼任{orgs}<TITLE:{board_title}>。 社会兼职：{society}，{indep}。
        此外，{surname}{he}还担任{society}。 {surname}{he}同时担任{indep}，{society}。 并任{orgs}<TITLE:{board_title}>。
        兼{society}，{school}{visiting}。 {society}，{indep}，{since}任{firm}<TITLE:{board_title}>。
        {name}{he}为{congress}，{society}。""",
    "other": """具有{certificate}、{certificate}执业资格。 {month}取得{certificate}资格。 {rank}，{letters}。 {month}荣获{award}。
        曾获{award}、{award}等荣誉。 {surname}{he}系{letters}，拥有{2_28}年{trade}行业从业经验。 {surname}{he}曾获{award}，享受国务院政府特殊津贴。
        在{trade}行业从事技术和管理工作{2_28}年，具有丰富的经验。 主持国家级科研项目{2_28}项，获得发明专利{2_28}项，发表论文{30_320}篇，其中SCI收录{2_28}篇。
        截至{now}年6月30日，{name}{he}未持有{firm}股份。 {name}{he}直接持有{firm}股份{30_320}万股，占总股本的0.{2_28}%。
        {name}{he}与{firm}控股股东、实际控制人不存在关联关系。 {name}{he}最近三年内未受过有关部门的处罚和证券交易所的惩戒。
        {name}{he}是{firm}实际控制人，与{firm}<TITLE:董事>{relative}为{kin}关系。 出版专著《{book}》，主编教材{nth}部。
        长期从事{trade}企业的财务和会计管理，熟悉董事会、监事会的运作。 {month}至{month}在校脱产学习。 曾主持{trade}项目{2_28}个，累计金额{30_320}亿元。""",
}
